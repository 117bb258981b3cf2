"""One offline page about several runs: their figures, their curves over each other, and what they differ in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dreamstill.errors import InputError
from dreamstill.files import atomic_write
from dreamstill.report import MISSHAPEN, Left, charts, misshapen, picture, plots, read_run_files, render, sections
from dreamstill.report.numbers import count, percent, unit
from dreamstill.runs.duration import duration

MOST = 12  # runs: so many lines can be told apart
_WHERE = {"out", "teacher_checkpoint", "student_checkpoint", "data_root"}  # where files lie, not what is computed

# Name, key under ``student`` or in the summary, how it is written, and whether more is better (None: neither).
_Figure = tuple[str, str, Callable[[float], str], bool | None]
_OF_STUDENT: tuple[_Figure, ...] = (
    ("Accuracy", "accuracy", percent, True),
    ("Mean IoU", "miou", percent, True),
    ("Pixel accuracy", "pixel_accuracy", percent, True),
    ("Calibration error (ECE)", "ece", percent, False),
    ("Parameters", "params", count, None),
    ("Operations an image", "flops", lambda v: unit(v, "FLOP"), None),
)
_OF_RUN: tuple[_Figure, ...] = (
    ("Agreement on real images", "agreement", percent, True),
    ("Agreement on synthetic images", "agreement_synthetic", percent, None),
    ("Student steps", "steps", lambda v: f"{v:,}", None),
    ("Time", "wall_seconds", duration, None),
    ("Operations in all", "total_flops", lambda v: unit(v, "FLOP"), None),
    ("Peak memory", "peak_memory_bytes", lambda v: unit(v, "B"), None),
)


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Write a page that compares finished runs of ``dreamstill distill`` or ``dreamstill train``.

    Raises:
        InputError: there are fewer than two or more than twelve, one is given twice or is not whole.
    """
    if not 2 <= len(folders) <= MOST:
        raise InputError(f"{len(folders)} run{'' if len(folders) == 1 else 's'} given: compare 2 to {MOST} run folders")
    twice = [str(f) for f, n in Counter(folder.resolve() for folder in folders).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0]} was given twice: give different runs")
    runs = [read_run_files(folder) for folder in folders]
    try:
        text = render("comparison.html.j2", _page(runs, folders))
    except MISSHAPEN as error:
        raise misshapen(folders[0] if len(folders) == 1 else folders[0].parent, error) from error
    atomic_write(path, text)
    return path


def _page(runs: Sequence[Left], folders: Sequence[Path]) -> dict[str, Any]:
    names = _names(folders)
    return {
        "names": names,
        "legend": [_legend(i, name) for i, name in enumerate(names)],
        "figures": _figures(runs),
        "verdicts": [_verdict(run.summary, name) for run, name in zip(runs, names, strict=True)],
        "differing": _differing(runs),
        "curves": _curves(runs, _evaluated, names),
        "terms": _curves(runs, lambda c: c.startswith("student/"), names, least=2),
        "pictures": [
            {"name": name, "sheet": sheet}
            for name, folder in zip(names, folders, strict=True)
            if (sheet := picture(folder / "samples.png"))
        ],
        "undrawn": plots.undrawn(),
        "version": runs[0].manifest.get("versions", {}).get("dreamstill", ""),
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of the path before as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(parts):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def _legend(i: int, name: str) -> dict[str, Any]:
    colour, dashes = plots.look(i)
    return {"name": name, "colour": colour, "dashes": dashes}


def _verdict(summary: dict[str, Any], name: str) -> dict[str, str]:
    found = summary.get("verdict")
    return {"name": name, "word": found["word"], "reason": found["reasons"][0]} if found else {}


# ---------------------------------------------------------------- tables


def _figures(runs: Sequence[Left]) -> list[dict[str, Any]]:
    """Rows of cells, one a run; the best of a row is marked where more or less is better and they differ."""
    summaries = [run.summary for run in runs]
    rows = [
        _words("Command", [s["command"] for s in summaries]),
        _words("Method", [s["method"] for s in summaries]),
        _words("Teacher", [s["teacher"]["name"] if "teacher" in s else "–" for s in summaries]),
        _words("Student", [s["student"]["name"] for s in summaries]),
        _words("Scored on", [s.get("data") or "–" for s in summaries]),
    ]
    rows = [row for row in rows if row["name"] in ("Method", "Student") or len({c["text"] for c in row["cells"]}) > 1]
    rows += [_numbers(f, [s["student"].get(f[1]) for s in summaries]) for f in _OF_STUDENT]
    unseen: _Figure = ("Agreement on unseen images", "", percent, True)
    rows.append(_numbers(unseen, [(s.get("certificate") or {}).get("agreement") for s in summaries]))
    rows += [_numbers(f, [s.get(f[1]) for s in summaries]) for f in _OF_RUN]
    return [row for row in rows if any(cell["text"] != "–" for cell in row["cells"])]


def _words(name: str, texts: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "cells": [{"text": text, "best": False} for text in texts]}


def _numbers(figure: _Figure, values: Sequence[float | None]) -> dict[str, Any]:
    name, _, form, more = figure
    known = [v for v in values if v is not None]
    best = None
    if more is not None and len(set(known)) > 1:
        best = max(known) if more else min(known)
    cells = [{"text": "–" if v is None else form(v), "best": v is not None and v == best} for v in values]
    return {"name": name, "cells": cells}


def _differing(runs: Sequence[Left]) -> list[dict[str, Any]]:
    """The settings in which the runs are not alike, one cell a run.

    Of those that only some of the runs' methods have, the ones in which these differ.
    """
    settings = [dict(sections.flat(run.config)) for run in runs]
    keys = dict.fromkeys(key for each in settings for key in each if key.split(".")[0] not in _WHERE)
    rows = []
    for key in keys:
        known = {str(each[key]) for each in settings if key in each}
        if len(known) > 1 or (
            len(known) == 1 and not key.startswith("method.") and not all(key in s for s in settings)
        ):
            rows.append({"name": _breakable(key), "cells": [str(each.get(key, "–")) for each in settings]})
    return rows


def _breakable(key: str) -> Markup:
    """A setting's name that a narrow column breaks between its words."""
    return Markup("").join(
        part + Markup("<wbr>") if part in "._" else part for part in re.split(r"([._])", key) if part
    )


# ---------------------------------------------------------------- curves


def _evaluated(column: str) -> bool:
    return column.startswith("eval/")


def _curves(
    runs: Sequence[Left], wanted: Callable[[str], bool], names: Sequence[str], least: int = 1
) -> list[dict[str, Any]]:
    """A chart for each quantity that at least so many runs have, over the steps of the student."""
    found = []
    columns = dict.fromkeys(c for run in runs for c in charts.columns(run.rows) if wanted(c))
    for at, column in enumerate(columns):
        lines = []
        for i, run in enumerate(runs):
            iterations, values = charts.series(run.rows, column)
            if values:
                each = run.summary["steps"] / max(run.rows)
                lines.append((i, [n * each for n in iterations], values))
        if len(lines) < least:
            continue
        kind, _, term = column.partition("/")
        share = column in ("eval/accuracy", "eval/miou", "eval/agreement")
        shown = {"miou": "mean IoU", "agreement": "agreement with the teacher"}.get(term, term.replace("_", " "))
        title = f"{shown} of {', '.join(names[i] for i, _, _ in lines)} over the steps"
        drawn = plots.curves(f"{kind}{at}", lines, title=title, percent=share, xlabel="student steps")
        found.append({"name": shown[0].upper() + shown[1:], "svg": Markup(drawn)})
    return found
