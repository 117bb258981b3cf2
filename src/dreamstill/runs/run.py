"""Carry out a run: folder, engine, loop. Distillation and training share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamstill import extras
from dreamstill.data.storage import nearest
from dreamstill.engine import Engine
from dreamstill.engine.ema import Ema
from dreamstill.files import write_json
from dreamstill.messages import say
from dreamstill.methods import Method, check_contract
from dreamstill.networks.network import Network
from dreamstill.networks.trust import is_code, signed
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.config_file import settings_sum, write_config
from dreamstill.runs.duration import duration
from dreamstill.runs.folder import RunFolder
from dreamstill.runs.loop import Cadence, Outcome, run
from dreamstill.runs.machine import machine, reset_peak_memory
from dreamstill.runs.manifest import manifest
from dreamstill.runs.metrics_log import Tracker
from dreamstill.runs.pace import Pace
from dreamstill.runs.plan import Finished, Plan
from dreamstill.runs.resume import same_inputs
from dreamstill.runs.settings import DistillSettings
from dreamstill.tasks import Task

CURVE_IMAGES = 2_000  # test images that score the curve in the report; the final figures use all images


def carry_out(plan: Plan, finish: Callable[[Finished], None]) -> Network:
    """Train and deliver. ``finish`` writes the results while the folder is locked."""
    if plan.settings.resume:
        same_inputs(plan)
    reset_peak_memory()
    engine = Engine(
        plan.inputs.given,
        device=plan.hardware.device,
        precision=plan.hardware.precision,
        compile=plan.hardware.compile,
        seed=plan.settings.seed,
        steps=plan.steps,
        scratch=nearest(plan.out),
    )
    # Before the folder is made: a method that refuses its task must leave nothing behind.
    plan.method.setup(engine)
    check_contract(plan.method, engine, plan.steps)
    folder = RunFolder(plan.out, plan.settings.resume) if engine.rank == 0 else None
    try:
        if folder is not None:
            extras.say_left_out(_extra_files(plan))
        if folder is not None and not plan.settings.resume:
            _begin(plan)
        ready = time.monotonic()
        outcome = _train(plan, engine)
        trained = time.monotonic()
        if engine.rank == 0 and not plan.settings.quiet:
            parts = ["samples", "certificate"] if plan.compare else ["scores"]
            parts += ["student.onnx"] if isinstance(plan.settings, DistillSettings) and plan.settings.onnx else []
            say(f"trained in {duration(trained - ready)}; now come {', '.join(parts)} and report")
        images = _images(plan, engine, outcome) if plan.compare else None
        finished = Finished(plan, engine, outcome, images, ready - plan.began, trained)
        if engine.rank == 0:
            finish(finished)
    finally:
        if folder is not None:
            folder.close()
    engine.barrier()
    return finished.network.requires_grad_(True).eval()  # it may be trained on


def _extra_files(plan: Plan) -> dict[str, str]:
    """The files that a run writes with libraries that may be missing."""
    settings = plan.settings
    files = {"onnx": "student.onnx"} if isinstance(settings, DistillSettings) and settings.onnx else {}
    if type(plan.method).transfer_set is not Method.transfer_set:
        files["data"] = "transfer.parquet"
    return files | {"plots": "the charts in report.html", "tracking": "tensorboard/"}


def _begin(plan: Plan) -> None:
    inputs = plan.inputs
    about = manifest(plan.outside, inputs.teacher_weights, plan.settings.seed, machine())
    # If it was given by its checkpoint or in Python, config.yaml does not say how it was built.
    about["student"] = {"name": inputs.given.student.name, "kwargs": inputs.given.student.kwargs}
    if inputs.collected is not None:
        about["collected_sha256"] = inputs.collected.sha256
        for note in inputs.collected.notes:
            say(note)
        write_json(plan.out / "collected.json", inputs.collected.account(plan.method.ranking))
    if inputs.student_weights.sha256 is not None:
        about |= {"student_file": inputs.student_weights.file, "student_sha256": inputs.student_weights.sha256}
    if inputs.stored is not None:
        about["transfer_sha256"] = inputs.stored.sha256
    if inputs.given.real_pixels is not None:
        about["real_sha256"] = inputs.real_sha256
    if (own := signed(*_trusted(plan))) is not None:
        about["own"] = own
    about["settings_sha256"] = settings_sum(plan.settings)
    write_json(plan.out / "manifest.json", about)
    write_config(plan.out / "config.yaml", plan.settings)


def _trusted(plan: Plan) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """The code that the user named for this run, and the pickled teacher that they gave it."""
    settings, given = plan.settings, plan.inputs.given
    named = [(n.name, n.kwargs) for n in (given.teacher, given.student)]
    if isinstance(settings, DistillSettings):
        named.append((settings.teacher, settings.teacher_args or {}))
    if plan.method_spec is not None:
        spec = dict(plan.method_spec)
        named.append((spec.pop("name"), spec))
    unsafe = isinstance(settings, DistillSettings) and settings.unsafe_load
    files = [plan.inputs.teacher_weights.sha256] if unsafe else []
    return [(name, kwargs) for name, kwargs in named if is_code(name)], [sha for sha in files if sha]


def _train(plan: Plan, engine: Engine) -> Outcome:
    total = sum(p.iterations for p in plan.method.phases(engine.steps))
    tracker = Tracker(plan.out if engine.rank == 0 else None, total, _title(plan), plan.settings.quiet)
    settings = plan.settings
    cadence = Cadence(
        checkpoint_seconds=settings.checkpoint_seconds,
        checkpoint_steps=settings.checkpoint_steps if isinstance(settings, DistillSettings) else 0,
        evaluations=settings.evaluations if plan.inputs.test is not None else 0,
    )
    evaluate = _curve(plan, engine.task) if cadence.evaluations else None
    try:
        checkpoints = Checkpoints(plan.out / "checkpoint")
        pace = None if plan.ends is None else Pace(plan.ends - time.monotonic())
        return run(plan.method, engine, checkpoints, tracker, cadence, settings.resume, evaluate, pace)
    finally:
        tracker.close()


def _images(plan: Plan, engine: Engine, outcome: Outcome) -> Tensor:
    """Some images to show and count. All ranks make them together, because batch norm in a generator needs that."""
    n = min(max(engine.task.looked_at, 20 * plan.inputs.given.teacher.num_classes), 5000)
    engine.begin(outcome.iterations, 1.0)
    # Compiling the generator alone would take longer than making these images.
    with engine.uncounted(), engine.eagerly():
        return engine.gather(plan.method.synthesise(engine, -(-n // engine.ranks) * engine.ranks))[:n]


def _title(plan: Plan) -> str:
    teacher, student = plan.inputs.given.teacher.name, plan.inputs.given.student.name
    return f"{teacher} to {student}" if plan.compare else student


def _curve(plan: Plan, task: Task) -> Callable[[Ema], dict[str, float]]:
    """Score the averaged network on an evenly spaced part of the test set."""
    test = plan.inputs.test
    assert test is not None
    assert test.labels is not None
    n = len(test)
    part = test.subset(torch.linspace(0, n - 1, min(n, CURVE_IMAGES)).long())
    assert part.labels is not None
    labels: Tensor = part.labels
    theirs: list[Tensor] = []

    def evaluate(ema: Ema) -> dict[str, float]:
        mine = task.predict(ema.network, part.pixels)
        values = {f"eval/{task.headline}": task.headline_of(mine, labels, ema.network.num_classes)}
        if plan.compare:
            if not theirs:
                theirs.append(task.predict(plan.inputs.given.teacher, part.pixels))
            values["eval/agreement"] = float((mine == theirs[0]).double().mean())
        return values

    return evaluate
