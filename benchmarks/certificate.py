"""Does the certificate order students as their real accuracy does? Small runs, good and ruined, and its correlation.

``python benchmarks/certificate.py`` makes the runs of ROWS that the folder does not hold yet, each less than a minute
of one core, and writes ``benchmarks/records/certificate/runs.json``. The labelled images are for the comparison alone:
each run's verdict is also given as it would be without them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import dreamstill
from dreamstill.files import write_json
from dreamstill.runs.machine import machine
from dreamstill.runs.metrics_log import read_metrics
from dreamstill.runs.verdict import judge

HERE = Path(__file__).parent
RECORD = HERE / "records" / "certificate" / "runs.json"
DDAD: dict[str, Any] = {
    "name": "ddad", "alpha": 1.0, "batch_size": 48, "nz": 64, "width": 16, "student_steps": 3, "lr_s": 0.1,
    "schedule": "cosine", "w_balance": 1.0, "reuse": True,
}  # fmt: skip
FAST: dict[str, Any] = {
    "name": "fast", "width": 16, "nz": 64, "images": 48, "crop": 1, "flip": False, "warmup": 2, "student_steps": 20,
    "bank": 2000, "batch_size": 48,
}  # fmt: skip
NOISE, RANDOM = {"name": "noise", "batch_size": 48}, {"name": "random_generator", "batch_size": 48, "width": 16}
# Set, name, student steps, method, what else is set.
ROWS: tuple[tuple[str, str, int, dict[str, Any], dict[str, Any]], ...] = (
    ("digits", "DDAD, 10 steps", 10, DDAD, {}),
    ("digits", "noise", 150, NOISE, {}),
    ("digits", "DDAD, 100 steps", 100, DDAD, {}),
    ("digits", "real data", 100, {"name": "real_data", "batch_size": 48, "crop": 1}, {"real": "digits"}),
    ("digits", "untrained generators", 150, RANDOM, {}),
    ("digits", "Fast, 300 steps", 300, FAST, {}),
    ("digits", "DDAD, wrong mean and std", 100, DDAD, {"mean": [0.9], "std": [0.1]}),
    ("digits", "DDAD, learning rate 3", 100, {**DDAD, "lr_s": 3.0}, {}),
    ("digits", "DDAD without statistics", 200, {**DDAD, "alpha": 0.0, "w_balance": 0.0}, {}),
    ("digits", "DDAD, width 4", 200, {**DDAD, "width": 4}, {}),
    ("digits", "DDAD, 600 steps", 600, DDAD, {}),
    ("mnist", "DDAD, 10 steps", 10, DDAD, {}),
    ("mnist", "noise", 150, NOISE, {}),
    ("mnist", "Fast, 300 steps", 300, {**FAST, "crop": 2}, {}),
    ("mnist", "DDAD, 300 steps", 300, {**DDAD, "alpha": 10.0}, {}),
    ("fashion-mnist", "DDAD, 10 steps", 10, DDAD, {}),
    ("fashion-mnist", "noise", 150, NOISE, {}),
    ("fashion-mnist", "Fast, 300 steps", 300, {**FAST, "crop": 2}, {}),
    ("fashion-mnist", "real data", 150, {"name": "real_data", "batch_size": 48}, {"real": "fashion-mnist"}),
)
FIXED: dict[str, Any] = {
    "precision": "32", "compile": "off", "device": "cpu", "quiet": True, "onnx": False, "evaluations": 0, "threads": 1,
}  # fmt: skip


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; equal values share the mean of their ranks."""

    def ranks(values: Sequence[float]) -> torch.Tensor:
        x = torch.tensor(values, dtype=torch.float64)
        less, equal = (x[None] < x[:, None]).sum(1), (x[None] == x[:, None]).sum(1)
        return less + (equal - 1) / 2

    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]).double())[0, 1])


def distil(data: str, steps: int, method: dict[str, Any], more: dict[str, Any], out: Path, root: str) -> None:
    """One run, unless the folder holds it."""
    if (out / "report.html").exists():
        return
    if data == "digits":
        teacher = out.parent / "digits-teacher"
        if not (teacher / "report.html").exists():
            dreamstill.train(
                "convnet", "digits", network_args={"widths": [32, 64, 128]}, epochs=15, crop=1, precision="32",
                compile="off", out=str(teacher), quiet=True,
            )  # fmt: skip
        student: dict[str, Any] = {"student": "convnet", "student_args": {"widths": [10, 20, 36]}}
        if "mean" in more:  # a file that says its own would be believed
            bare = dreamstill.load_student(str(teacher)).module
            student |= {"teacher": bare, "num_classes": 10, "image_size": 8, "channels": 1}
    else:
        teacher = HERE / "teachers" / f"{data.split('-')[0]}_lenet5_bn.safetensors"
        student = {"student": "lenet5_bn_half", "data_root": root}
    settings = {**FIXED, **student, **more}
    if "teacher" not in settings:
        settings["teacher_checkpoint"] = str(teacher)
    dreamstill.distill(method=method, steps=steps, data=data, out=str(out), **settings)


def row_of(out: Path) -> dict[str, Any]:
    """What the record keeps of a run."""
    summary = json.loads((out / "summary.json").read_text())
    blind = {**summary, "student": {}, "teacher": {}}
    found = summary["certificate"]
    return {
        "accuracy": summary["student"]["accuracy"],
        "teacher_accuracy": summary["teacher"]["accuracy"],
        "agreement_real": summary["agreement"],
        "agreement_synthetic": summary["agreement_synthetic"],
        "certificate": {key: found[key] for key in ("agreement", "ece", "worst_class", "coverage", "sources")},
        "verdict": summary["verdict"]["word"],
        "verdict_without_labels": judge(blind, read_metrics(out / "metrics.csv"), out)["word"],
    }


def correlations(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of the certificate's agreement, and of that on the run's own images, with the accuracy: by set and over all."""
    found = {}
    for name in [*dict.fromkeys(row["data"] for row in rows), "all"]:
        part = [row for row in rows if name in (row["data"], "all")]
        if len(part) < 3:
            continue
        accuracy = [row["accuracy"] for row in part]
        found[name] = {
            "runs": len(part),
            "certificate": spearman([row["certificate"]["agreement"] for row in part], accuracy),
            "own_images": spearman([row["agreement_synthetic"] for row in part], accuracy),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/certificate"))
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--only", nargs="*", help="sets to run; the others are recorded where the folder has them")
    options = parser.parse_args()
    rows = []
    for data, name, steps, method, more in ROWS:
        out = options.out / f"{data}-{name}".replace(" ", "-").replace(",", "")
        if options.only is None or data in options.only:
            distil(data, steps, method, more, out, options.data_root)
        if (out / "report.html").exists():
            rows.append({"data": data, "name": name, "steps": steps, **row_of(out)})
            print(f"{data}, {name}: {rows[-1]['accuracy']:.1%}, certificate {rows[-1]['certificate']['agreement']:.1%}")
    found = correlations(rows)
    for name, values in found.items():
        print(name, {key: round(value, 2) for key, value in values.items()})
    write_json(RECORD, {"machine": machine(), "correlations": found, "rows": rows})


if __name__ == "__main__":
    main()
