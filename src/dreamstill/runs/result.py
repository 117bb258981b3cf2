"""What a distillation gives back in Python: the student, and where and how good it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamstill.networks.network import Network
from dreamstill.runs.duration import duration


@dataclass(frozen=True, repr=False)
class Result:
    """A finished distillation.

    Attributes:
        student: images in [0, 1] in, logits out; the bare network is its ``.module``.
        folder: of the run, with the student's files.
        figures: what ``summary.json`` holds: scores, sizes, times, the certificate.
    """

    student: Network
    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"

    @property
    def verdict(self) -> dict[str, Any]:
        """Whether the student is fit for use: ``word``, ``reasons`` and ``next``, a command."""
        return dict(self.figures.get("verdict", {}))

    def __repr__(self) -> str:
        return table(self.figures, self.folder) if self.figures else f"Result({self.student.name}, {self.folder})"


def read_result(student: Network, folder: Path) -> Result:
    """The result of the run in a folder; processes other than the first may find no figures there."""
    path = folder / "summary.json"
    return Result(student, folder, json.loads(path.read_text()) if path.exists() else {})


def table(summary: dict[str, Any], out: Path) -> str:
    """A finished run's figures, in a few lines for the terminal."""
    teacher, student = summary["teacher"], summary["student"]
    rows = [("", "teacher", "student"), ("network", teacher["name"], student["name"])]
    rows += [(k, f"{teacher[k]:,}", f"{student[k]:,}") for k in ("params", "flops")]
    if "accuracy" in student:
        rows.append(("accuracy", f"{teacher['accuracy']:.2%}", f"{student['accuracy']:.2%}"))
        if "relative_accuracy" in summary:
            rows.append(("relative accuracy", "", f"{summary['relative_accuracy']:.2%}"))
    elif "miou" in student:
        for key, name in (("miou", "mean IoU"), ("pixel_accuracy", "pixel accuracy")):
            rows.append((name, f"{teacher[key]:.2%}", f"{student[key]:.2%}"))
    if "agreement" in summary:
        rows.append(("agreement", "", f"{summary['agreement']:.2%}"))
    elif "certificate" in summary:
        rows.append(("agreement on unseen images", "", f"{summary['certificate']['agreement']:.1%}"))
    widths = [max(len(r[i]) for r in rows) for i in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
    lines.append(f"{summary['steps']} steps in {duration(summary['wall_seconds'])}; {out / 'report.html'}")
    verdict = summary["verdict"]
    return "\n".join([*lines, f"{verdict['word']}: {verdict['reasons'][0]}", f"next: {verdict['next']}"])
