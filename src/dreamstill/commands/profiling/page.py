"""The page about a profile: a table of parts for each phase, the roofline with the parts as points, growth."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dreamstill.commands.profiling.faster import TOLERANCE, sentence
from dreamstill.files import atomic_write
from dreamstill.report import plots
from dreamstill.report.numbers import listing, milliseconds, percent, plain, unit
from dreamstill.runs.duration import duration


def write_profile(folder: Path, found: dict[str, Any]) -> Path:
    """Write ``profile.html``, one file that asks nothing of the network, and return where it is."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        (files("dreamstill.commands.profiling") / "page.html.j2").read_text(encoding="utf-8")
    )
    path = folder / "profile.html"
    css = Markup((files("dreamstill.report") / "report.css").read_text(encoding="utf-8"))
    atomic_write(path, template.render(_page(found), css=css))
    return path


def _page(found: dict[str, Any]) -> dict[str, Any]:
    heavy = [p for p in found["parts"] if p["flops"] and p["matrix_seconds"]]
    peaks = found["peaks"]
    flops = peaks["conv_bfloat16" if found["precision"] == "bf16" else "conv_float32"]
    points = [(p["flops"] / p["matrix_bytes"], p["flops"] / p["matrix_seconds"]) for p in heavy]
    return {
        "title": found["recipe"],
        "networks": f"{found['teacher']['name']} to {found['student']['name']}, method {found['method']['name']}",
        "facts": _facts(found),
        "notes": found["notes"],
        "phases": [_phase(found, phase, heavy) for phase in found["phases"]],
        "peaks": [(k.replace("_", " "), unit(v, "B/s" if "bytes" in k else "FLOP/s")) for k, v in peaks.items()],
        "roofline": Markup(
            plots.roofline("roof", points, flops=flops, bandwidth=peaks["copy_bytes"], title="Roofline of the parts")
        ),
        "growth": _growths(found),
        "undrawn": plots.undrawn(),
        "tolerance": percent(TOLERANCE - 1, 0),
        "faster": _faster(found),
        "left_out": [
            f"{axis} {p['value']} is left out: {p['why']}"
            for axis, grown in found["growth"].items()
            for p in grown["left_out"]
        ],
    }


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Of the machine; with several phases also of the run as a whole."""
    run, machine, facts = found["run"], found["machine"], []
    if len(found["phases"]) > 1:
        floor = run["floor_seconds"]
        facts.append((f"Run of {run['steps']:,} student steps, not compiled", duration(run["seconds"])))
        facts.append(("Floor of the run", f"{duration(floor)}, {percent(floor / run['seconds'], 0)} of that"))
        if "compiled_seconds" in run:
            took = run["compiled_seconds"]
            facts.append(("Compiled", f"{duration(took)}, the floor is {percent(floor / took, 0)} of that"))
    else:
        facts += _times(found["phases"][0])
    name = machine["gpu"] or machine["cpu"]
    facts.append(("Machine", f"{name}, {machine['threads']} threads, torch {machine['torch']}"))
    facts.append(("Precision", found["precision"]))
    return facts


def _times(phase: dict[str, Any]) -> list[tuple[str, str]]:
    took, floor = phase["iteration_seconds"], phase["floor_seconds"]
    facts = [
        ("Iteration, not compiled", milliseconds(took)),
        (
            "Floor: matrix operations alone, batch norm's passes",
            f"{milliseconds(floor)}, {percent(floor / took, 0)} of that",
        ),
    ]
    if "compiled" in phase:
        seconds = phase["compiled"]["iteration_seconds"]
        facts.append(("Compiled", f"{milliseconds(seconds)}, the floor is {percent(floor / seconds, 0)} of that"))
        facts.append(("Compiling took", f"{plain(phase['compiled']['first_seconds'])} s"))
    return [*facts, ("Operations", unit(phase["flops"], "FLOP"))]


def _phase(found: dict[str, Any], phase: dict[str, Any], heavy: list[dict[str, Any]]) -> dict[str, Any]:
    """A table of the phase's parts, under its name and times where there are several."""
    parts = [p for p in found["parts"] if p["phase"] == phase["name"]]
    several = len(found["phases"]) > 1
    return {
        "name": f"Phase {phase['name']}, {phase['iterations']:,} iterations of the run" if several else "",
        "facts": _times(phase) if several else [],
        "rows": [_row(p, heavy.index(p) + 1 if p in heavy else "") for p in parts],
    }


def _row(part: dict[str, Any], number: int | str) -> list[str]:
    times = [milliseconds(part[k]) if part[k] else "" for k in ("seconds", "floor_seconds")]
    share = percent(part["floor_seconds"] / part["seconds"], 0) if part["floor_seconds"] else ""
    flops = unit(part["flops"], "FLOP") if part["flops"] else ""
    return [str(number), part["step"], part["part"], flops, unit(part["bytes"], "B"), *times, share]


def _growths(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A chart for each axis and phase."""
    several = len(found["phases"]) > 1
    charts: list[dict[str, Any]] = []
    for axis, grown in found["growth"].items():
        changed = f"{listing(grown['changes'])} together; " if len(grown["changes"]) > 1 else ""
        for phase, points in grown["phases"].items():
            values, seconds, flops = ([p[k] for p in points] for k in ("value", "seconds", "flops"))
            name = f"{axis}, {phase}" if several else axis
            title = f"Growth of time and operations with {name}"
            svg = plots.growth(f"growth{len(charts)}", values, seconds, flops, title=title)
            note = f"{changed}dashed: operations"
            charts.append({"above": "", "name": name, "note": note, "last": "", "svg": Markup(svg)})
    return charts


def _faster(found: dict[str, Any]) -> list[list[str]]:
    """A row for each part whose time grows faster than its work."""
    return [
        [axis, f["phase"], f["step"], f["part"], sentence(f)]
        for axis, grown in found["growth"].items()
        for f in grown["faster"]
    ]
