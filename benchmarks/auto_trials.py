"""The trials behind ``--method auto`` and the defaults of ``fast``, on images of the training split.

``python benchmarks/auto_trials.py --data-root DATA [--only b1 c4]``: each trial is one distillation. It is scored on
the last images of the set's training split, so that no setting is chosen by the test split; the teacher has learnt
these images, the student sees none of them. A record a trial: ``benchmarks/records/auto-trials/SET-NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dreamstill import api
from dreamstill.engine.launch import settle_process
from dreamstill.files import write_json

HERE = Path(__file__).parent
RECORDS = HERE / "records" / "auto-trials"
# Data set, teacher, student, and how many of the last training images score.
SETS = {
    "fashion": ("fashion-mnist", "fashion_lenet5_bn", "lenet5_bn_half", 5000),
    "mnist": ("mnist", "mnist_lenet5_bn", "lenet5_bn_half", 5000),
    "mnist-no-bn": ("mnist", "mnist_lenet5", "lenet5_half", 5000),
    "cifar10": ("cifar10", "cifar10_wrn16-2", "wrn_16_1", 2000),
}
GREY = {"width": 16, "nz": 64, "flip": False, "crop": 2, "student_steps": 20, "inner_steps": 5, "w_adv": 0.0}
# Set, steps, seed, and the settings of fast.
TRIALS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "a0": ("fashion", 600, 0, {**GREY, "student_steps": 40, "w_adv": 1.0}),
    "b0": ("fashion", 2000, 0, {**GREY, "w_adv": 1.0}),
    "b1": ("fashion", 2000, 0, GREY),
    "c1": ("fashion", 2000, 0, {**GREY, "w_bn": 10.0}),
    "c2": ("fashion", 2000, 0, {**GREY, "bn_memory": 0.0}),
    "c4": ("fashion", 2000, 0, {**GREY, "inner_steps": 10, "student_steps": 40}),
    "c5": ("fashion", 2000, 0, {**GREY, "w_bn": 100.0}),
    "c6": ("fashion", 2000, 0, {**GREY, "w_adv": 0.1}),
    "c7": ("fashion", 2000, 0, {**GREY, "tau": 4.0}),
    "c8": ("fashion", 2000, 0, {**GREY, "lr_g": 5e-3}),
    "c9": ("fashion", 2000, 0, {**GREY, "inner_steps": 2, "student_steps": 8}),
    "e1": ("fashion", 2000, 0, {**GREY, "inner_steps": 10, "student_steps": 40, "lr_g": 1e-3}),
    "e2": ("fashion", 2000, 0, {**GREY, "inner_steps": 20, "student_steps": 80}),
    "e8": ("fashion", 4000, 0, {**GREY, "inner_steps": 10, "student_steps": 80}),
    "e9": ("fashion", 4000, 1, {**GREY, "inner_steps": 10, "student_steps": 80}),
    "g1": ("fashion", 2000, 0, {**GREY, "inner_steps": 10, "student_steps": 40, "head": "tanh"}),
    "m1": ("mnist-no-bn", 2000, 0, {**GREY, "student_steps": 40, "w_bn": 0.0, "w_adv": 1.0, "w_label": 1.0}),
    "m3": ("mnist", 2000, 0, {**GREY, "inner_steps": 10, "student_steps": 40}),
    "d1": ("cifar10", 9000, 0, {"width": 24, "inner_steps": 8, "student_steps": 150, "w_adv": 0.0}),
    # As many images, fewer lessons from each; and the batch-norm term summed over 13 layers, as the paper weighs it.
    "d2": ("cifar10", 2400, 0, {"width": 24, "inner_steps": 8, "student_steps": 40, "w_adv": 0.0}),
    "d3": ("cifar10", 2400, 0, {"width": 24, "inner_steps": 8, "student_steps": 40, "w_adv": 0.0, "w_bn": 130.0}),
}


def held_out(data_root: str, name: str, n: int, folder: Path) -> Path:
    """The last images of the training split as a set of its own."""
    files = sorted(Path(data_root, name).glob("train-*.parquet"))
    table = pa.concat_tables([pq.read_table(f) for f in files])
    path = folder / "held-out.parquet"
    pq.write_table(table.slice(len(table) - n), path)
    return path


def carried_out(name: str, data_root: str) -> dict[str, Any]:
    """One trial, and of its summary what is compared."""
    kind, steps, seed, settings = TRIALS[name]
    data, teacher, student, n = SETS[kind]
    method = {"name": "fast", **settings}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        api.distill(
            teacher_checkpoint=str(HERE / "teachers" / f"{teacher}.safetensors"), student=student, method=method,
            steps=steps, seed=seed, data=str(held_out(data_root, data, n, folder)), out=str(folder / "run"),
            evaluations=0, precision="32", compile="off", onnx=False, quiet=True,
        )  # fmt: skip
        summary = json.loads((folder / "run" / "summary.json").read_text())
    return record(name, summary)


def record(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a trial."""
    kind, steps, seed, settings = TRIALS[name]
    kept = {k: summary[k] for k in ("agreement", "total_flops", "images_synthesised", "wall_seconds", "machine")}
    accuracy = {"accuracy": summary["student"]["accuracy"], "teacher": summary["teacher"]["accuracy"]}
    return {"set": kind, "steps": steps, "seed": seed, "method": {"name": "fast", **settings}, **accuracy, **kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", nargs="*", default=sorted(TRIALS))
    options = parser.parse_args()
    settle_process()
    for name in options.only:
        found = carried_out(name, options.data_root)
        write_json(RECORDS / f"{found['set']}-{name}.json", found)
        print(f"{name} {found['accuracy']:.2%} {found['total_flops'] / 1e12:.3g} TFLOP", flush=True)


if __name__ == "__main__":
    main()
