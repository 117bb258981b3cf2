"""Several students from images that were made once: what the second and the third cost, and what they learn.

``python benchmarks/students.py --data-root DATA``: soft targets of MNIST's LeNet-5 make 2,000 images and a first
student; then the method ``transfer`` teaches others from the run's ``transfer.parquet``, with the teacher asked about
warped images, or from the stored logits alone. The record is ``benchmarks/records/students/mnist.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from dreamstill import api
from dreamstill.engine.launch import settle_process
from dreamstill.files import write_json
from dreamstill.runs.machine import machine

HERE = Path(__file__).parent
RECORD = HERE / "records" / "students" / "mnist.json"
TEACHER = str(HERE / "teachers" / "mnist_lenet5.safetensors")
STEPS = 3000
WARPED = {"name": "transfer", "crop": 2, "warp": 1.0, "lr_s": 0.05}
STORED = {"name": "transfer", "lr_s": 0.05}


def made(out: Path, options: argparse.Namespace, student: str, method: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One run, and of its summary what is compared."""
    api.distill(
        teacher_checkpoint=TEACHER, student=student, method=method, steps=STEPS, seed=options.seed, out=str(out),
        data="mnist", data_root=options.data_root, evaluations=0, precision="32", compile="off", onnx=False, quiet=True,
        **more,
    )  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    kept = {k: summary[k] for k in ("wall_seconds", "seconds", "steps", "total_flops")}
    return {"student": student, "accuracy": summary["student"]["accuracy"], "method": method, **kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settle_process()
    recipe = yaml.safe_load((HERE.parent / "recipes" / "soft_target_tuned_mnist_lenet5.yaml").read_text())
    first = {**recipe["method"], "warp": 1.0, "n_images": 2000}
    found: dict[str, Any] = {"machine": machine(), "seed": options.seed}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        found["with the images"] = made(out / "first", options, "lenet5_half", first)
        stored = {"transfer": str(out / "first" / "transfer.parquet")}
        found["the same student again"] = made(out / "second", options, "lenet5_half", WARPED, **stored)
        found["a larger one"] = made(out / "third", options, "lenet5", WARPED, **stored)
        found["from the stored logits"] = made(out / "fourth", options, "lenet5_half", STORED, **stored)
    write_json(RECORD, found)
    for name, run in found.items():
        if name not in ("machine", "seed"):
            print(f"{name}: {run['student']}, {100 * run['accuracy']:.1f} %, {run['wall_seconds']:.0f} s")


if __name__ == "__main__":
    main()
