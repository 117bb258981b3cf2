"""The page about a profile: one table of parts, the roofline with the parts as points, growth."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dreamstill.files import atomic_write
from dreamstill.report import plots
from dreamstill.report.numbers import listing, milliseconds, percent, plain, unit


def write_profile(folder: Path, found: dict[str, Any]) -> Path:
    """Write ``profile.html``, one file that asks nothing of the network, and return where it is."""
    here = files("dreamstill.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((here / "profile.html.j2").read_text(encoding="utf-8"))
    path = folder / "profile.html"
    css = Markup((here / "report.css").read_text(encoding="utf-8"))
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
        "rows": [_row(p, heavy.index(p) + 1 if p in heavy else "") for p in found["parts"]],
        "peaks": [(k.replace("_", " "), unit(v, "B/s" if "bytes" in k else "FLOP/s")) for k, v in peaks.items()],
        "roofline": Markup(
            plots.roofline("roof", points, flops=flops, bandwidth=peaks["copy_bytes"], title="Roofline of the parts")
        ),
        "growth": [_growth(i, name, grown) for i, (name, grown) in enumerate(found["growth"].items())],
    }


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    took, floor, machine = found["iteration_seconds"], found["floor_seconds"], found["machine"]
    facts = [
        ("Iteration, not compiled", milliseconds(took)),
        (
            "Floor: matrix operations alone, batch norm's passes",
            f"{milliseconds(floor)}, {percent(floor / took, 0)} of that",
        ),
    ]
    if "compiled" in found:
        seconds = found["compiled"]["iteration_seconds"]
        facts.append(("Compiled", f"{milliseconds(seconds)}, the floor is {percent(floor / seconds, 0)} of that"))
        facts.append(("Compiling took", f"{plain(found['compiled']['first_seconds'])} s"))
    facts.append(("Operations", unit(found["flops"], "FLOP")))
    name = machine["gpu"] or machine["cpu"]
    facts.append(("Machine", f"{name}, {machine['threads']} threads, torch {machine['torch']}"))
    facts.append(("Precision", found["precision"]))
    return facts


def _row(part: dict[str, Any], number: int | str) -> list[str]:
    times = [milliseconds(part[k]) if part[k] else "" for k in ("seconds", "floor_seconds")]
    share = percent(part["floor_seconds"] / part["seconds"], 0) if part["floor_seconds"] else ""
    flops = unit(part["flops"], "FLOP") if part["flops"] else ""
    return [str(number), part["step"], part["part"], flops, unit(part["bytes"], "B"), *times, share]


def _growth(i: int, name: str, grown: dict[str, Any]) -> dict[str, Any]:
    values, seconds, flops = ([p[k] for p in grown["points"]] for k in ("value", "seconds", "flops"))
    svg = plots.growth(f"growth{i}", values, seconds, flops, title=f"Growth of time and operations with {name}")
    changed = f"{listing(grown['changes'])} together; " if len(grown["changes"]) > 1 else ""
    return {"above": "", "name": name, "note": f"{changed}dashed: operations", "last": "", "svg": Markup(svg)}
