"""Look a teacher over before a run: does it give logits, is its normalisation plausible, which methods fit it.

Everything runs on a copy in eval mode with its own random numbers: the network looked at, its mode, its buffers and
the global random stream stay as they were.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dreamstill import cost
from dreamstill.adapters import Network
from dreamstill.errors import InputError
from dreamstill.fits import fitting, noise_images, offers
from dreamstill.normalisation import first_line, normalisation_check, plain_copy
from dreamstill.probes import bn_layers, pooled_bn

Kind = Literal["logits", "probabilities", "log_probabilities"]
_SPOKEN = {"logits": "logits", "probabilities": "probabilities", "log_probabilities": "log-probabilities"}
_TIMED_BATCH = 128

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
                f"{who} returns {_SPOKEN[kind]}, expected logits: remove its last {last} and return what enters it"
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


# ---------------------------------------------------------------- the whole examination


def examine(network: Network, sha256: str | None = None) -> dict[str, Any]:
    """Everything a user may want to know of a teacher, as plain JSON types.

    Never raises for a bad network: what is wrong is under ``problems``, each a sentence, and what could not be found
    out is None.

    Args:
        network: left as it is.
        sha256: of its weights file, passed through.

    Returns:
        Description, ``params``, ``flops`` (of one image), ``bytes``, batch-norm layers, ``taps``, ``output``,
        ``offers``, ``normalisation``, ``milliseconds`` and, for every method and control, whether it ``fits``.
    """
    problems: list[str] = []
    try:
        check_output(network)
    except InputError as error:
        problems.append(str(error))
    copied = plain_copy(network)
    layers, offered = list(bn_layers(network.module)), offers(network)
    flops: int | None = None
    milliseconds: dict[str, Any] = {}
    try:
        flops = cost.count(network, network.channels, network.image_size).flops
        milliseconds = _milliseconds(copied, flops, "input_gradient" in offered)
    except Exception as error:
        if not problems:
            problems.append(f"the network could not be timed: {first_line(error)}")
    tensors = [*copied.parameters(), *copied.buffers()]
    return {
        **network.description(),
        "sha256": sha256,
        "params": sum(p.numel() for p in copied.parameters()),
        "flops": flops,
        "bytes": sum(t.numel() * t.element_size() for t in tensors),
        "bn_layers": len(layers),
        "bn_names": layers[:3],
        "bn_pooled": [] if problems else pooled_bn(network),
        "taps": list(getattr(network.module, "taps", ())),
        "output": _kind_of(copied),
        "offers": sorted(offered),
        "normalisation": normalisation_check(network),
        "milliseconds": milliseconds,
        "methods": fitting(offered, network, bool(problems)),
        "problems": problems,
    }


def _kind_of(copied: Network) -> str | None:
    try:
        with torch.no_grad():
            outputs = copied(noise_images(copied, 8))
        return output_kind(outputs) if outputs.dim() in (2, 4) else None
    except Exception:  # check_output has reported it
        return None


def _milliseconds(copied: Network, flops: int, gradient: bool) -> dict[str, Any]:
    """Medians. A network so large that 128 images would take minutes is timed on fewer, and the time scaled."""
    batch = _TIMED_BATCH
    while batch > 1 and 3 * flops * batch > 1e12:
        batch //= 2

    def clock(n: int, backward: bool) -> float:
        images = noise_images(copied, n).requires_grad_(backward)
        times: list[float] = []
        while len(times) < 2 or (len(times) < 6 and sum(times) < 2):
            start = time.perf_counter()
            with torch.set_grad_enabled(backward):
                total = copied(images).sum()
                if backward:
                    torch.autograd.grad(total, images)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times[1:])  # the first one warms up

    scale = _TIMED_BATCH / batch
    return {
        "forward_1": round(clock(1, False), 3),
        "forward_128": round(scale * clock(batch, False), 3),
        "gradient_128": round(scale * clock(batch, True), 3) if gradient else None,
        "measured_batch": batch,
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }


def render(report: dict[str, Any]) -> None:
    """Print what :func:`examine` found."""
    console = Console(highlight=False)
    facts = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, value in _facts(report):
        facts.add_row(label, value)
    console.print(facts)
    table = Table(pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    table.add_column("why not", overflow="fold")
    for row in report["methods"]:
        table.add_row(row["name"], "[green]yes[/]" if row["fits"] else "[red]no[/]", _plain(row["why"]))
    console.print(table)
    for problem in report["problems"]:
        console.print(f"[bold red]problem:[/] {_plain(problem)}")


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    times, check, pooled = report["milliseconds"], report["normalisation"], report["bn_pooled"]
    height, width = report["image_size"]
    names = ", ".join(report["bn_names"]) + (", ..." if report["bn_layers"] > len(report["bn_names"]) else "")
    flops = f", {report['flops'] / 1e6:,.1f} MFLOPs an image" if report["flops"] is not None else ""
    colour = {"plausible": "green", "implausible": "red", "unknown": "yellow"}[check["verdict"]]
    note = f" ({', '.join(pooled)}: one value a channel and image, left out of the batch-norm term)" if pooled else ""
    rows = [
        ("network", _plain(report["name"])),
        ("size", f"{report['params']:,} parameters{flops}, {report['bytes'] / 1e6:,.2f} MB"),
        ("images", f"{report['channels']} x {height} x {width}, {report['num_classes']} classes"),
        ("mean, std", _plain(f"{report['mean']}, {report['std']}")),
        ("", f"[{colour}]{check['verdict']}[/]: {_plain(check['why'])}"),
        ("output", "no logits" if report["output"] is None else _SPOKEN[report["output"]]),
        ("batch norm", _plain(f"{report['bn_layers']} layers: {names}{note}" if report["bn_layers"] else "none")),
        ("taps", _plain(", ".join(report["taps"]) or "none declared")),
        ("offers", ", ".join(report["offers"]) or "nothing"),
    ]
    if times:
        back = "" if times["gradient_128"] is None else f", with input gradient {times['gradient_128']:,.1f} ms"
        where = f"{times['device']}, threads: {times['threads']}"
        text = f"1 image {times['forward_1']:,.1f} ms; 128 images {times['forward_128']:,.1f} ms{back} ({where})"
        rows.append(("time", text))
    if report["sha256"]:
        rows.append(("sha256", report["sha256"]))
    return rows


def _plain(text: str) -> str:
    """Text whose brackets rich shall print, not read as styles."""
    return text.replace("[", r"\[")
