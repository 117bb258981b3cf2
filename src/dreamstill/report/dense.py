"""What the page says of a segmentation run alone: intersection over union, class by class."""

from __future__ import annotations

from typing import Any

from dreamstill.report.charts import class_names
from dreamstill.report.numbers import percent, points


def class_table(summary: dict[str, Any]) -> dict[str, Any] | None:
    """One row a class: share of the labelled pixels, IoU of teacher and student, what it is most often taken for."""
    mine: list[float | None] | None = summary["student"].get("iou")
    if mine is None:
        return None
    teacher = summary.get("teacher")
    theirs: list[float | None] | None = teacher.get("iou") if teacher else None
    confusion: list[list[int]] = summary["confusion"]
    total = sum(map(sum, confusion)) or 1
    rows = []
    for i, name in enumerate(class_names(summary, len(mine))):
        pixels, student = sum(confusion[i]), mine[i]
        row = {"name": name, "share": percent(pixels / total), "student": _cell(student)}
        if theirs is not None:
            other = theirs[i]
            row["teacher"] = _cell(other)
            row["difference"] = "" if student is None or other is None else points(student - other)
        row["mistaken"] = _mistaken(confusion[i], i, class_names(summary, len(mine)))
        rows.append(row)
    return {"rows": rows, "compared": theirs is not None}


def _cell(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _mistaken(counts: list[int], i: int, names: list[str]) -> str:
    wrong = [n if j != i else 0 for j, n in enumerate(counts)]
    return f"{names[wrong.index(max(wrong))]} ({percent(max(wrong) / sum(counts))})" if any(wrong) else "–"
