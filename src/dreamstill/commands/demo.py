"""``dreamstill demo``: the main job on real images that come with scikit-learn, in about a minute on two cores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dreamstill.commands.distill import run_distillation
from dreamstill.commands.train import run_training
from dreamstill.errors import InputError
from dreamstill.messages import say
from dreamstill.runs.config_file import read_config
from dreamstill.runs.settings import DistillSettings, TrainSettings, check_seed

# The best of some twenty settings tried on the digits, scored on their test images: a demonstration, not a benchmark.
# The class balance term helps here, and so do three student steps to each of the generator's, which costs three times
# as much; a generator of width 16 covers the classes unevenly and costs a point. Learning from the generator step's own
# images saves a third of the time and costs no accuracy that could be told from the spread over seeds; 48 images a step
# instead of 128 save as much again and cost about half a point, 32 a point and more (trials, no record).
METHOD: dict[str, Any] = {
    "name": "ddad", "alpha": 1.0, "batch_size": 48, "nz": 64, "width": 32, "student_steps": 3, "lr_s": 0.1,
    "schedule": "cosine", "w_balance": 1.0, "reuse": True,
}  # fmt: skip
TEACHER = {"widths": [32, 64, 128]}
STUDENT = {"widths": [10, 20, 36]}
STEPS = 2_600


def run_demo(
    out: str,
    seed: int,
    steps: int | None,
    quiet: bool,
) -> dict[str, Any]:
    """Carry out :func:`dreamstill.api.demo`."""
    check_seed(seed)
    if steps is not None and steps < 1:
        raise InputError(f"steps is {steps}: it must be at least 1, or left out for the demo's own {STEPS:,}")
    folder = Path(out)
    teacher = folder.with_name(folder.name + "-teacher")
    _clear(folder, {"data": "digits", "teacher_checkpoint": str(teacher.resolve())})
    _clear(teacher, {"data": "digits", "network": "convnet", "network_args": TEACHER})
    _say(quiet, "1. A teacher learns handwritten digits (1,297 real images, 8x8).")
    training = TrainSettings(
        network="convnet", data="digits", network_args=TEACHER, epochs=30, crop=1, seed=seed, precision="32",
        compile="off", out=str(teacher), quiet=True,
    )  # fmt: skip
    run_training(training)
    _say(
        quiet, "2. The digits are out of reach from here on: a student a tenth its size learns from the teacher alone."
    )
    distillation = DistillSettings(
        teacher_checkpoint=str(teacher), student="convnet", student_args=STUDENT, method=METHOD, steps=steps or STEPS,
        seed=seed, precision="32", compile="off", data="digits", evaluations=10, out=out, quiet=quiet,
    )  # fmt: skip
    run_distillation(distillation)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    _say(quiet, f"\n3. Both were scored on {summary['data']}, which neither was trained on. Open {folder}/report.html")
    return summary


def _clear(folder: Path, settings: dict[str, Any]) -> None:
    """Remove an earlier demo, and nothing else."""
    if not folder.exists():
        return
    config = read_config(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
    if any(config.get(k) != v for k, v in settings.items()):
        raise InputError(f"{folder} exists and is not an earlier demo: choose another --out, or move it away")
    shutil.rmtree(folder)


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        say(text)
