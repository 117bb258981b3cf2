"""``dreamstill doctor``: does a teacher give logits, is its normalisation plausible, which methods fit it.

Everything runs on a copy in eval mode with its own random numbers: the network looked at, its mode, its buffers and
the global random stream stay as they were.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from dreamstill.errors import InputError, first_line
from dreamstill.messages import say, show
from dreamstill.networks import cost, state_dicts
from dreamstill.networks.file_kinds import PROGRAMS, file_kind
from dreamstill.networks.libraries import is_library
from dreamstill.networks.load import check_trained, checkpoint_file, resolve
from dreamstill.networks.network import Network, noise_images, plain_copy
from dreamstill.networks.normalisation import normalisation_check
from dreamstill.networks.output_check import SPOKEN, check_output, output_kind, probing_images
from dreamstill.networks.probes import declared_taps, pooled_bn, running_bn
from dreamstill.networks.programs import facts_of
from dreamstill.ranges import check_types
from dreamstill.runs.inputs import told_facts
from dreamstill.runs.random_numbers import kept_random_streams
from dreamstill.runs.requirements import fitting, offers
from dreamstill.runs.settings import DoctorSettings

_TIMED_BATCH = 128


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
    layers, offered = running_bn(network), offers(network)
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
        "taps": declared_taps(network.module),
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
            outputs = copied(probing_images(copied))
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
    facts = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, value in _facts(report):
        facts.add_row(label, value)
    table = Table(pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    table.add_column("why not, or what to know", overflow="fold")
    for row in report["methods"]:
        table.add_row(row["name"], "[green]yes[/]" if row["fits"] else "[red]no[/]", _plain(row["why"] or row["note"]))
    show(facts, table, *(f"[bold red]problem:[/] {_plain(problem)}" for problem in report["problems"]))


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
        ("output", "no logits" if report["output"] is None else SPOKEN[report["output"]]),
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


@kept_random_streams()
def run_doctor(settings: DoctorSettings) -> dict[str, Any]:
    """Carry out :func:`dreamstill.api.doctor`."""
    check_types(settings)
    name: str | None = settings.teacher
    checkpoint = settings.checkpoint
    if checkpoint is None and Path(settings.teacher).exists():  # a run folder or a file that describes itself
        name, checkpoint = None, name
    facts = told_facts(settings)
    file = None if checkpoint is None else checkpoint_file(Path(checkpoint))
    described, channels = _described(file, settings)
    # A bare file says nothing about its images: look at it with the commonest assumptions, and say so.
    assumed = {} if is_library(name) else {"image_size": 32, "mean": None, "std": None}
    assumptions = []
    for key, value in assumed.items():
        if facts[key] is None and key not in described:
            facts[key] = value
            assumptions.append(key)
    if assumed:
        channels = facts["channels"] or described.get("channels") or channels
        facts["channels"] = channels
    for key, neutral in (("mean", 0.0), ("std", 1.0)):
        if key in assumptions:
            facts[key] = [neutral] * channels

    def found() -> Network:
        return resolve(
            name, checkpoint, kwargs=settings.teacher_args, unsafe=settings.unsafe_load, key=settings.checkpoint_key,
            prefix=settings.checkpoint_prefix, **facts,
        )  # fmt: skip

    network = found()
    report = examine(network, None if file is None else state_dicts.sha256(file))
    report["problems"] += _untrained(network, checkpoint, found)
    if checkpoint is None and ":" not in settings.teacher:
        assumptions.append("weights")
    report["assumed"], report["notes"] = assumptions, network.notes
    if settings.json:
        print(json.dumps(report, indent=2))
    else:
        render(report)
        for note in network.notes:
            say(note)
        if assumptions:
            values = {**facts, "weights": "random"}
            say(f"not given, so assumed: {', '.join(f'{k} {values[k]}' for k in assumptions)}")
    return report


def _untrained(network: Network, checkpoint: str | None, found: Callable[[], Network]) -> list[str]:
    """The one problem of a factory's network that has no trained weights, if it has it."""
    try:
        check_trained(network, checkpoint, found)
    except InputError as error:
        return [str(error)]
    return []


def _described(file: Path | None, settings: DoctorSettings) -> tuple[dict[str, Any], int]:
    """What a weights file says of its images, and their channels as its first convolution takes them."""
    if file is None:
        return {}, 3
    kind = file_kind(file) if file.is_file() else None
    if kind in PROGRAMS:
        return facts_of(file, kind), 3
    found = state_dicts.read_state(file, unsafe=settings.unsafe_load, key=settings.checkpoint_key)
    return found.description, next((int(t.shape[1]) for t in found.state.values() if t.dim() == 4), 3)
