"""Carry a run out: folder, engine, loop. Distillation and training share it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from dreamstill.data.storage import nearest
from dreamstill.engine import Engine
from dreamstill.engine.ema import Ema
from dreamstill.files import write_json
from dreamstill.methods import check_contract
from dreamstill.networks.network import Network
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.folder import RunFolder
from dreamstill.runs.loop import Cadence, Outcome, run
from dreamstill.runs.machine import machine, reset_peak_memory
from dreamstill.runs.manifest import manifest
from dreamstill.runs.metrics_log import Tracker
from dreamstill.runs.plan import Finished, Plan
from dreamstill.runs.settings import write_config
from dreamstill.tasks import Task

CURVE_IMAGES = 2_000  # the curve in the report is scored on so many test images; the final figures on all of them


def carry_out(plan: Plan, finish: Callable[[Finished], None]) -> Network:
    """Train and deliver; ``finish`` writes what the run leaves behind, while the folder is locked."""
    config = plan.config
    reset_peak_memory()
    engine = Engine(
        plan.given,
        device=config["device"],
        precision=config["precision"],
        compile=config["compile"] == "on",
        seed=config["seed"],
        steps=plan.steps,
        scratch=nearest(plan.out),
    )
    # Before the folder is made: what a method cannot do must leave nothing behind.
    plan.method.setup(engine)
    check_contract(plan.method, engine, plan.steps)
    folder = RunFolder(plan.out, plan.resume) if engine.rank == 0 else None
    try:
        if folder is not None and not plan.resume:
            _begin(plan)
        ready = time.monotonic()
        outcome = _train(plan, engine)
        trained = time.monotonic()
        images = _images(plan, engine, outcome) if plan.compare else None
        finished = Finished(plan, engine, outcome, images, ready - plan.began, trained)
        if engine.rank == 0:
            finish(finished)
    finally:
        if folder is not None:
            folder.close()
    engine.barrier()
    return finished.network


def _begin(plan: Plan) -> None:
    about = manifest(plan.outside, plan.teacher_file, plan.config["seed"], machine())
    # Given by its checkpoint or in Python, config.yaml does not say how it was built.
    about["student"] = {"name": plan.given.student.name, "kwargs": plan.given.student.kwargs}
    if plan.collected is not None:
        about["collected_sha256"] = plan.collected.sha256
        for note in plan.collected.notes:
            print(note, flush=True)
        write_json(plan.out / "collected.json", plan.collected.account(plan.method.ranking))
    if "sha256" in plan.student_file:
        about |= {"student_file": plan.student_file["file"], "student_sha256": plan.student_file["sha256"]}
    if plan.stored is not None:
        about["transfer_sha256"] = plan.stored.sha256
    if plan.given.real_pixels is not None:
        about["real_sha256"] = plan.real_sha256
    write_json(plan.out / "manifest.json", about)
    write_config(plan.out / "config.yaml", plan.command, plan.config)


def _train(plan: Plan, engine: Engine) -> Outcome:
    total = sum(p.iterations for p in plan.method.phases(engine.steps))
    tracker = Tracker(plan.out if engine.rank == 0 else None, total, _title(plan), plan.quiet)
    config = plan.config
    cadence = Cadence(
        checkpoint_seconds=config["checkpoint_seconds"],
        checkpoint_steps=config.get("checkpoint_steps", 0),
        evaluations=config["evaluations"] if plan.test is not None else 0,
    )
    evaluate = _curve(plan, engine.task) if cadence.evaluations else None
    try:
        return run(plan.method, engine, Checkpoints(plan.out / "checkpoint"), tracker, cadence, plan.resume, evaluate)
    finally:
        tracker.close()


def _images(plan: Plan, engine: Engine, outcome: Outcome) -> Tensor:
    """Some images to look at and count, made by all ranks together: batch norm in a generator needs them all."""
    n = min(max(engine.task.looked_at, 20 * plan.given.teacher.num_classes), 5000)
    engine.begin(outcome.iterations, 1.0)
    # A graph of a generator's alone would take longer to compile than some images to make.
    with engine.uncounted(), engine.eagerly():
        return engine.gather(plan.method.synthesise(engine, -(-n // engine.ranks) * engine.ranks))[:n]


def _title(plan: Plan) -> str:
    teacher, student = plan.given.teacher.name, plan.given.student.name
    return f"{teacher} to {student}" if plan.compare else student


def _curve(plan: Plan, task: Task) -> Callable[[Ema], dict[str, float]]:
    """Score the averaged network on an even part of the test set."""
    assert plan.test is not None
    assert plan.test.labels is not None
    n = len(plan.test)
    part = plan.test.subset(torch.linspace(0, n - 1, min(n, CURVE_IMAGES)).long())
    assert part.labels is not None
    labels: Tensor = part.labels
    theirs: list[Tensor] = []

    def evaluate(ema: Ema) -> dict[str, float]:
        mine = task.predict(ema.network, part.pixels)
        values = {f"eval/{task.headline}": task.headline_of(mine, labels, ema.network.num_classes)}
        if plan.compare:
            if not theirs:
                theirs.append(task.predict(plan.given.teacher, part.pixels))
            values["eval/agreement"] = float((mine == theirs[0]).double().mean())
        return values

    return evaluate
