"""Whether what a network returns is logits, and whether they depend on the image alone."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dreamstill.errors import InputError, user_error
from dreamstill.networks.file_checks import not_finite
from dreamstill.networks.network import Network, noise_images, plain_copy
from dreamstill.networks.sizes import accepted_side

Kind = Literal[
    "logits", "probabilities", "log_probabilities", "sigmoid", "tanh", "scaled_probabilities", "joined_probabilities"
]
SPOKEN = {
    "logits": "logits",
    "probabilities": "probabilities",
    "log_probabilities": "log-probabilities",
    "sigmoid": "values between 0 and 1, as of a sigmoid",
    "tanh": "values between -1 and 1 of a tanh",
    "scaled_probabilities": "scaled probabilities (of one sign, with the same sum for every image)",
    "joined_probabilities": "several softmaxes side by side",
}
_REMOVE = {
    "probabilities": "its last softmax",
    "log_probabilities": "its last log_softmax",
    "sigmoid": "its last sigmoid",
    "tanh": "its last tanh",
    "scaled_probabilities": "its last softmax and what scales it",
    "joined_probabilities": "the softmaxes at its end, or give one head",
}
_SURE = 4  # from this many rows on, values in [0, 1] and constant sums are no accident

# ---------------------------------------------------------------- what comes out


def output_kind(outputs: Tensor) -> Kind:
    """Which kind of values a batch of outputs holds.

    In a map (``b k h w``) every pixel is a row. Rows of probabilities lie in [0, 1] and sum to 1. Rows of
    log-probabilities have a logsumexp of 0. All others count as logits. Rounding to bf16 or fp16 is allowed for, but
    only if the rows differ from each other: one row, or a small network's nearly constant rows, may come that near by
    chance. Four or more rows that differ are also checked for values that all lie in [0, 1] (a sigmoid), and for
    values of one sign with a constant sum (probabilities times a number, or several softmaxes).

    If the outputs know how they were computed (``grad_fn``), a sigmoid or tanh at the end decides. A linear layer
    there shows that values in [0, 1] are logits after all.

    Args:
        outputs: ``b k`` or ``b k h w``, any floating type.
    """
    last = _last_operation(outputs)
    if "sigmoid" in last:
        return "sigmoid"
    if "tanh" in last:
        return "tanh"
    x = outputs.detach().double()
    if x.dim() == 4:
        x = x.permute(0, 2, 3, 1).flatten(0, 2)
    # Values that survive a cast to half precision were computed in it, whatever type they arrive in.
    half = next((t for t in (torch.bfloat16, torch.float16) if torch.equal(x.to(t).double(), x)), None)
    tight = 1e-5
    loose = tight if half is None else 2 * torch.finfo(half).eps
    varied = (x.amax(0) - x.amin(0)) / x.abs().amax(0).clamp_min(1e-30)  # relative: with many classes all are small
    differ = float(varied.max()) >= 10 * loose
    if len(x) < 2 or not differ:
        loose = tight
    within = bool(((x >= 0) & (x <= 1 + loose)).all())
    if within and bool(((x.sum(1) - 1).abs() <= loose).all()):
        return "probabilities"
    # A log-probability's rounding error grows with its size; weighted by itself that is at most the entropy, ln k.
    total = torch.logsumexp(x, 1)
    slack = loose * (1 + math.log(x.shape[1]))
    if bool((total.abs() <= slack).all()):
        return "log_probabilities"
    if len(x) < _SURE or not differ:
        return "logits"
    heads = total[0].exp().round().clamp(2, max(2, x.shape[1] // 2))
    if bool((x <= 0).all()) and bool(((total - heads.log()).abs() <= slack).all()):
        return "log_probabilities"
    sums = x.sum(1)
    if bool((x >= 0).all() | (x <= 0).all()) and bool(((sums - sums[0]).abs() <= 10 * loose * sums[0].abs()).all()):
        return "joined_probabilities" if _joined(x, loose) else "scaled_probabilities"
    linear = any(name in last for name in ("addmm", "convolution", "batchnorm", "relu", "threshold"))
    return "sigmoid" if within and not linear else "logits"


def _joined(x: Tensor, loose: float) -> bool:
    """Whether rows (``n k``) in [0, 1] fall into two or more runs of columns that each sum to 1."""
    sums = x.cumsum(1)
    ends = ((sums - sums[0].round()).abs() <= 10 * loose).all(0) & (sums[0].round() >= 1)
    return int(sums[0, -1].round()) >= 2 and len(sums[0, ends].round().unique()) == int(sums[0, -1].round())


# What only moves values, or averages them.
_MOVES = ("view", "reshape", "squeeze", "permute", "transpose", "tbackward", "slice", "select", "alias", "clone",
          "copy", "expand", "cat", "stack", "mean", "upsample", "adaptiveavg", "avgpool", "index")  # fmt: skip


def _last_operation(outputs: Tensor) -> str:
    """Name of the last operation that computed something, in lower case; empty where autograd does not know."""
    node: Any = outputs.grad_fn
    while node is not None:
        name = node.name().lower()
        if not any(move in name for move in _MOVES):
            return name
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return ""


# ---------------------------------------------------------------- the check


def probing_images(network: Network) -> Tensor:
    """Eight images (``8 c h w``) of noise whose contrast differs, the same at every call."""
    contrast = torch.tensor([1.0, 0.2, 3.0, 0.5, 10.0, 1.0, 0.1, 2.0]).view(-1, 1, 1, 1)
    mean = network.mean.cpu().float()
    return mean + contrast * (noise_images(network, 8) - mean)


def check_output(network: Network, role: str = "teacher") -> None:
    """Run a few images of noise, and refuse a network whose output is not the logits of each image alone.

    Args:
        network: left as it is; a copy runs on the CPU in float32.
        role: what the message calls it.

    Raises:
        InputError: the forward pass fails; the output is not ``b k`` or ``b k h w``, has another number of classes,
            is not finite, or is bounded (probabilities, a sigmoid, ...); or an image's output changes from call to
            call or with the other images of its batch.
    """
    copied = plain_copy(network)
    who = f"the {role} {network.name}"
    if bad := not_finite(network.module):
        raise InputError(
            f"{who} has NaN or infinite values in {', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}: give the "
            "checkpoint of a training that did not diverge, or fetch it again"
        )
    buffers = {name: b.nan_to_num() for name, b in copied.named_buffers() if b.is_floating_point()}
    for n in (2, 5):
        then = "Make it take any batch size" if n > 2 else "Give the channels and the image size it was trained on"
        outputs = _fed(copied, noise_images(network, n).requires_grad_(), who, then, n == 2)
        _check_shape(who, outputs, n, network)
        _refuse_kind(who, output_kind(outputs))
        if not bool(outputs.isfinite().all()):
            raise InputError(
                f"{who} returns NaN or infinite values for {_shape(network, n)} around its mean and std, expected "
                "finite logits: check the checkpoint's weights and batch-norm statistics"
            )
    _check_function(copied, who)
    now = {name: b for name, b in copied.named_buffers() if name in buffers}
    changed = [n.removeprefix("module.") for n, b in now.items() if not torch.equal(b.nan_to_num(), buffers[n])]
    if changed:
        raise InputError(
            f"{who} changes {', '.join(changed[:3])} when it is run in eval mode, so its answers depend on earlier "
            "images, expected buffers that stay the same. Update them in training mode only"
        )


def _check_function(copied: Network, who: str) -> None:
    """Refuse outputs that depend on anything but the image."""
    images = probing_images(copied)
    outputs = _fed(copied, images.requires_grad_(), who, "check the checkpoint's weights")
    _refuse_kind(who, output_kind(outputs))
    images, outputs = images.detach(), outputs.detach()
    if not bool(outputs.isfinite().all()):  # this may happen far from its mean and std
        return
    largest = float(outputs.abs().max())
    difference = float((_fed(copied, images, who, "check its code") - outputs).abs().max())
    if difference > 1e-5 * largest:
        on = [name for name, layer in copied.module.named_modules() if isinstance(layer, _DropoutNd) and layer.training]
        what = f"{', '.join(on[:3])} stay on" if on else "something random stays on, or is kept from call to call"
        raise InputError(
            f"{who} answers the same images differently each time, by up to {difference:.2g} in logits of up to "
            f"{largest:.2g}, expected the same answers in eval mode: {what}. Give F.dropout training=self.training, "
            "and put layers into an nn.ModuleList, not a plain list"
        )
    spread = float((outputs - outputs.mean(0)).abs().max())
    for i in (1, len(images) - 1):
        alone = _fed(copied, images[i : i + 1], who, "batch norm needs running statistics, and code any batch size")
        difference = float((alone[0] - outputs[i]).abs().max()) if alone.shape[1:] == outputs.shape[1:] else math.inf
        if difference > 1e-4 * largest + 1e-3 * spread:
            raise InputError(
                f"{who} answers an image differently when other images are in its batch, by up to {difference:.2g} in "
                f"logits of up to {largest:.2g}, expected an answer to the image alone: {_mixing(copied)}"
            )


def _mixing(copied: Network) -> str:
    """What mixes the images of a batch, and what to do."""
    layers = [
        name
        for name, layer in copied.module.named_modules()
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
    ]
    if layers:
        return (
            f"{', '.join(layers[:3])} normalise by the batch. Give the batch norms running statistics "
            "(track_running_stats=True) and let eval mode switch them"
        )
    return "its forward pass computes over the batch dimension, as batch norm without running statistics does"


def _fed(copied: Network, images: Tensor, who: str, then: str, first: bool = False) -> Tensor:
    """Run the copy on images. Its errors become a message that ends in the sentence ``then``, or in the size it takes.

    Images that require a gradient keep it if the network's code takes that, so that the outputs know how they were
    computed.
    """
    if images.requires_grad:
        try:
            with torch.enable_grad():
                return copied(images)
        except Exception:  # numpy, for instance, takes no tensor that requires a gradient
            images = images.detach()
    try:
        with torch.no_grad():
            return copied(images)
    except InputError as error:
        raise InputError(f"{who}: {error}") from error
    except Exception as error:  # whatever the user's forward() raises
        raise InputError(
            f"{who} failed when fed {_shape(copied, len(images))}, with {user_error(error)}. "
            f"{_size_hint(copied) if first else then}"
        ) from error


def _size_hint(copied: Network) -> str:
    """What to do about images that a network does not take."""
    side = accepted_side(copied)
    if side is None:
        return "give the channels and the image size it was trained on"
    return f"it takes images of {side}x{side}, so give --image-size {side}"


def _shape(network: Network, n: int) -> str:
    height, width = network.image_size
    return f"{n} image{'' if n == 1 else 's'} of {network.channels} x {height} x {width} (c h w)"


def _refuse_kind(who: str, kind: Kind) -> None:
    if kind != "logits":
        raise InputError(
            f"{who} returns {SPOKEN[kind]}, expected logits: remove {_REMOVE[kind]} and return what enters it"
        )


def _check_shape(who: str, outputs: Tensor, n: int, network: Network) -> None:
    shape, num_classes = " x ".join(str(d) for d in outputs.shape), network.num_classes
    if outputs.dim() not in (2, 4) or len(outputs) != n:
        raise InputError(
            f"{who} returns {shape or 'a single number'} for {n} images, expected one row of logits per image "
            f"(b k, {n} x {num_classes}), or for segmentation a map of them (b k h w): wrap it in a module that "
            "returns them"
        )
    if outputs.shape[1] != num_classes:
        raise InputError(
            f"{who} gives {outputs.shape[1]} outputs per image and num_classes is {num_classes}: give num_classes "
            f"{outputs.shape[1]}, or the checkpoint that belongs to {num_classes} classes"
        )
