"""Whether what a network returns is logits."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dreamstill.errors import InputError, first_line
from dreamstill.networks.file_checks import not_finite
from dreamstill.networks.network import Network, noise_images, plain_copy

Kind = Literal["logits", "probabilities", "log_probabilities"]
SPOKEN = {"logits": "logits", "probabilities": "probabilities", "log_probabilities": "log-probabilities"}

# ---------------------------------------------------------------- what comes out


def output_kind(outputs: Tensor) -> Kind:
    """What a batch of outputs is.

    Of a map (``b k h w``) every pixel is a row. Rows of probabilities lie in [0, 1] and sum to 1; rows of
    log-probabilities have a logsumexp of 0; all others count as logits. Rounding to bf16 or fp16 is allowed for, but
    only where the rows differ from each other: one row, or a small network's nearly constant rows, may come that near
    by chance.

    Args:
        outputs: ``b k`` or ``b k h w``, any floating type.
    """
    x = outputs.detach().double()
    if x.dim() == 4:
        x = x.permute(0, 2, 3, 1).flatten(0, 2)
    # Values that survive a cast to half precision were computed in it, whatever type they arrive in.
    half = next((t for t in (torch.bfloat16, torch.float16) if torch.equal(x.to(t).double(), x)), None)
    tight = 1e-5
    loose = tight if half is None else 2 * torch.finfo(half).eps
    varied = (x.amax(0) - x.amin(0)) / x.abs().amax(0).clamp_min(1e-30)  # relative: with many classes all are small
    if len(x) < 2 or float(varied.max()) < 10 * loose:
        loose = tight
    if bool(((x >= 0) & (x <= 1 + loose)).all()) and bool(((x.sum(1) - 1).abs() <= loose).all()):
        return "probabilities"
    # A log-probability's rounding error grows with its size; weighted by itself that is at most the entropy, ln k.
    if bool((torch.logsumexp(x, 1).abs() <= loose * (1 + math.log(x.shape[1]))).all()):
        return "log_probabilities"
    return "logits"


def check_output(network: Network, role: str = "teacher") -> None:
    """Run two small batches of noise and refuse a network whose output is not logits (``b k`` or ``b k h w``).

    Args:
        network: left as it is; a copy runs on the CPU in float32.
        role: what the message calls it.

    Raises:
        InputError: the forward pass fails, or the output has another shape or another number of classes, is not
            finite, or is probabilities or log-probabilities.
    """
    copied = plain_copy(network)
    who = f"the {role} {network.name}"
    if bad := not_finite(network.module):
        raise InputError(
            f"{who} has NaN or infinite values in {', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}: give the "
            "checkpoint of a training that did not diverge, or fetch it again"
        )
    for n in (2, 5):
        fed = f"{n} images of {network.channels} x {network.image_size[0]} x {network.image_size[1]} (c h w)"
        try:
            with torch.no_grad():
                outputs = copied(noise_images(network, n))
        except InputError as error:
            raise InputError(f"{who}: {error}") from error
        except Exception as error:  # whatever somebody's forward() raises
            then = "make it take any batch size" if n > 2 else "give the channels and the image size it was trained on"
            raise InputError(f"{who} failed when fed {fed}, with {first_line(error)!r}: {then}") from error
        _check_shape(who, outputs, n, network)
        kind = output_kind(outputs)
        if kind != "logits":
            last = "softmax" if kind == "probabilities" else "log_softmax"
            raise InputError(
                f"{who} returns {SPOKEN[kind]}, expected logits: remove its last {last} and return what enters it"
            )
        if not bool(outputs.isfinite().all()):
            raise InputError(
                f"{who} returns NaN or infinite values for {fed} around its mean and std, expected finite logits: "
                "check the checkpoint's weights and batch-norm statistics"
            )


def _check_shape(who: str, outputs: Tensor, n: int, network: Network) -> None:
    shape, num_classes = " x ".join(str(d) for d in outputs.shape), network.num_classes
    if outputs.dim() not in (2, 4) or len(outputs) != n:
        raise InputError(
            f"{who} returns {shape or 'a single number'} for {n} images, expected one row of logits an image "
            f"(b k, {n} x {num_classes}), or for segmentation a map of them (b k h w): wrap it in a module that "
            "returns them"
        )
    if outputs.shape[1] != num_classes:
        raise InputError(
            f"{who} gives {outputs.shape[1]} outputs an image and num_classes is {num_classes}: give num_classes "
            f"{outputs.shape[1]}, or the checkpoint that belongs to {num_classes} classes"
        )
