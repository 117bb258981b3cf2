"""A profile in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from dreamstill import messages
from dreamstill.commands.profiling.faster import TOLERANCE, sentence
from dreamstill.report.numbers import listing, percent
from dreamstill.runs.duration import duration


def show(found: dict[str, Any], out: Path) -> None:
    """A table of parts for each phase, its time and its floor, and with several phases those of the whole run."""
    said: list[RenderableType] = list(found["notes"])
    several = len(found["phases"]) > 1
    for phase in found["phases"]:
        title = f"{found['recipe']}, phase {phase['name']}" if several else found["recipe"]
        said += [_parts(title, [p for p in found["parts"] if p["phase"] == phase["name"]]), *_times(phase)]
    said += _run(found) if several else []
    messages.show(*said, *_growth(found, several), f"{out / 'profile.html'}")


def _parts(title: str, parts: list[dict[str, Any]]) -> Table:
    table = Table("step", "part", "GFLOP", "MB", "ms", "floor ms", title=title, title_justify="left")
    for row in parts:
        numbers = (row["flops"] / 1e9, row["bytes"] / 1e6, row["seconds"] * 1e3, row["floor_seconds"] * 1e3)
        table.add_row(row["step"], row["part"], *(f"{v:.3g}" if v else "" for v in numbers))
    return table


def _times(phase: dict[str, Any]) -> list[str]:
    took, floor = phase["iteration_seconds"], phase["floor_seconds"]
    lines = [f"iteration {took * 1e3:.4g} ms, floor {floor * 1e3:.4g} ms: {floor / took:.0%} of the time"]
    if "compiled" in phase:
        c = phase["compiled"]["iteration_seconds"]
        took = phase["compiled"]["first_seconds"]
        lines.append(f"compiled  {c * 1e3:.4g} ms: {floor / c:.0%}; compiling took {took:.0f} s")
    return lines


def _run(found: dict[str, Any]) -> list[str]:
    run = found["run"]
    floor = run["floor_seconds"]
    phases = ", ".join(f"{p['iterations']} {p['name']}" for p in found["phases"])
    lines = [
        f"a run of {run['steps']} student steps ({phases}): {duration(run['seconds'])}, floor {duration(floor)}: "
        f"{floor / run['seconds']:.0%} of the time"
    ]
    if "compiled_seconds" in run:
        lines.append(f"compiled  {duration(run['compiled_seconds'])}: {floor / run['compiled_seconds']:.0%}")
    return lines


def _growth(found: dict[str, Any], several: bool) -> list[str]:
    """For each axis the parts whose time grows faster than their work."""
    lines = []
    for axis, grown in found["growth"].items():
        beyond = f"by more than {percent(TOLERANCE - 1, 0)}"
        lines += [f"growth with {axis}: {p['value']} left out, {p['why']}" for p in grown["left_out"]]
        head = f"growth with {axis} ({listing(grown['changes'])}): "
        if not grown["faster"]:
            lines.append(f"{head}no part outgrows its operations {beyond}")
            continue
        lines.append(f"{head}these outgrow their operations {beyond}")
        for f in grown["faster"]:
            phase = f"phase {f['phase']}, " if several else ""
            lines.append(f"  {phase}{f['step']}, {f['part']}: {sentence(f)}")
    return lines
