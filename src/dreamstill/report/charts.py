"""The charts of the page: which quantities are drawn, how they are grouped, and what is said beside them."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from dreamstill.report import plots
from dreamstill.report.numbers import listing, percent, plain
from dreamstill.report.sections import kind

Rows = dict[int, dict[str, float]]
NAMED_BARS = 20  # up to so many classes are shown by name
HEAT_MAP_CLASSES = 20
WORST = 10  # of more classes than that, so many are listed
_COLOURS = {"generator": 2, "student": 1, "lr": 3}
_EVALUATED = {
    "eval/accuracy": "Accuracy of the student",
    "eval/miou": "Mean IoU of the student",
    "eval/agreement": "Agreement with the teacher",
}


def class_names(summary: dict[str, Any], k: int) -> list[str]:
    """The names of ``k`` classes; their numbers where no names, or another set's, are known."""
    names = summary.get("classes")
    return [str(n) for n in names] if names and len(names) == k else [str(i) for i in range(k)]


def learning_curves(rows: Rows, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured on real images while the run went on."""
    found = []
    names = {**_EVALUATED, **({} if "teacher" in summary else {"eval/accuracy": "Accuracy", "eval/miou": "Mean IoU"})}
    for i, column in enumerate(sorted(c for c in columns(rows) if c.startswith("eval/"))):
        steps, values = series(rows, column)
        if not steps:
            continue
        level = summary.get("teacher", {}).get(column.removeprefix("eval/"))
        shares = column in _EVALUATED
        name = names.get(column, column.removeprefix("eval/").replace("_", " "))
        drawn = plots.curve(f"eval{i}", steps, values, title=f"{name} over the iterations", percent=shares, level=level)
        last = percent(values[-1]) if shares else plain(values[-1])
        note = "" if level is None else f"dashed: the teacher's {percent(level)}"
        found.append({"above": "", "name": name, "last": last, "note": note, "svg": Markup(drawn)})
    return found


def loss_terms(rows: Rows) -> list[dict[str, Any]]:
    """One small chart for each term, sorted by the network that was trained on it; learning rates last."""
    found = []
    terms = [c for c in columns(rows) if "/" in c and not c.startswith("eval/")]
    for i, column in enumerate(sorted(terms, key=lambda c: (c.startswith("lr/"), c.split("/")[0]))):
        group, term = column.split("/", 1)
        steps, values = series(rows, column)
        if not steps:
            continue
        above, name = "learning rate" if group == "lr" else group, term.replace("_", " ")
        # Terms that fall by orders of magnitude would be a vertical and a flat line otherwise.
        logarithmic = group != "lr" and min(values) > 0 and max(values) > 50 * min(values)
        drawn = plots.curve(
            f"term{i}",
            steps,
            values,
            title=f"{above}: {name} over the iterations",
            colour=_COLOURS.get(group, 4),
            logarithmic=logarithmic,
            small=True,
        )
        note = "logarithmic" if logarithmic else ""
        found.append({"above": above, "name": name, "last": plain(values[-1]), "note": note, "svg": Markup(drawn)})
    return found


def histogram(summary: dict[str, Any]) -> dict[str, Any] | None:
    """What the teacher took the images for, and a warning where classes are missing or one prevails."""
    counts: list[int] | None = summary.get("class_histogram")
    if not counts or not (total := sum(counts)):
        return None
    names = class_names(summary, len(counts))
    most = max(counts)
    bars = [
        {"name": n, "count": f"{c:,}", "width": f"{100 * c / most:.1f}"} for n, c in zip(names, counts, strict=True)
    ]
    many = len(counts) > NAMED_BARS
    what = f"{'pixels of ' if summary.get('task') == 'segmentation' else ''}{kind(summary)}"
    title = f"Images a class, {len(counts)} classes, at most {most}"
    return {
        "total": f"{total:,}",
        "what": what,
        "warnings": _warnings(counts, names, total, what),
        "bars": [] if many else bars,
        "svg": Markup(plots.bars("synthesised", counts, title=title)) if many else None,
        "range": f"between {min(counts):,} and {most:,} a class",
        "clipped": percent(summary["clipped_share"]) if "clipped_share" in summary else None,
    }


def _warnings(counts: list[int], names: list[str], total: int, what: str) -> list[str]:
    warnings = []
    if missing := [n for n, c in zip(names, counts, strict=True) if c == 0]:
        verb = "appears" if len(missing) == 1 else "appear"
        warnings.append(
            f"{len(missing):,} of the {len(counts):,} classes never {verb} among {total:,} {what}: "
            f"{listing(missing)}. Check the student on real images of "
            f"{'this class' if len(missing) == 1 else 'these classes'} before relying on it there."
        )
    if 2 * max(counts) > total:
        name = names[counts.index(max(counts))]
        warnings.append(
            f"More than half of the {what} are of one class: {name} ({percent(max(counts) / total)}). "
            "The student has seen little of the others."
        )
    return warnings


def classes(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Which classes the student (or the trained network) gets right: a heat map, or the worst of many."""
    if summary.get("task") == "segmentation":  # there it is a table of its own
        return None
    confusion: list[list[int]] | None = summary.get("confusion")
    accuracies: list[float | None] | None = summary["student"].get("per_class")
    if accuracies is None and confusion is not None:
        accuracies = [row[i] / sum(row) if sum(row) else None for i, row in enumerate(confusion)]
    if accuracies is None:
        return None
    names = class_names(summary, len(accuracies))
    heat = confusion is not None and len(confusion) <= HEAT_MAP_CLASSES
    return {
        "names": names,
        "heat": _heat(confusion, names) if heat and confusion is not None else None,
        "worst": None if heat else _worst(accuracies, confusion, names),
        "unseen": sum(a is None for a in accuracies),
        "who": "student" if "teacher" in summary else "network",
    }


def _heat(confusion: list[list[int]], names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for i, counts in enumerate(confusion):
        total = sum(counts)
        cells = []
        for j, n in enumerate(counts):
            share = n / total if total else 0.0
            # Errors are rare: on a linear scale they could not be told from none.
            shade = share if i == j else share**0.5
            cells.append(
                {
                    "count": n,
                    "shade": f"{shade:.3f}",
                    "kind": "hit" if i == j else "miss",
                    "deep": shade > 0.55,
                    "text": f"{names[i]} taken for {names[j]}: {n:,} of {total:,}",
                }
            )
        rows.append({"name": names[i], "cells": cells, "share": percent(counts[i] / total) if total else "–"})
    return rows


def _worst(accuracies: list[float | None], confusion: list[list[int]] | None, names: list[str]) -> list[dict[str, str]]:
    measured = sorted((a, i) for i, a in enumerate(accuracies) if a is not None)
    rows = []
    for accuracy, i in measured[:WORST]:
        mistaken = ""
        if confusion is not None:
            wrong = [n if j != i else 0 for j, n in enumerate(confusion[i])]
            if max(wrong):
                mistaken = f"{names[wrong.index(max(wrong))]} ({percent(max(wrong) / sum(confusion[i]))})"
        rows.append({"name": names[i], "accuracy": percent(accuracy), "mistaken": mistaken})
    return rows


def columns(rows: Rows) -> list[str]:
    """In the order of the file, whatever row a column first appears in."""
    return list(dict.fromkeys(k for row in rows.values() for k in row))


def series(rows: Rows, column: str) -> tuple[list[int], list[float]]:
    """Where a column was recorded, and what; a value that is not finite cannot be drawn."""
    pairs = [(s, r[column]) for s, r in sorted(rows.items()) if column in r and math.isfinite(r[column])]
    return [s for s, _ in pairs], [v for _, v in pairs]
