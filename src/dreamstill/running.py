"""Carry a run out: folder, engine, loop, and what it leaves behind. Distillation and training share it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamstill import cost, extras, methods
from dreamstill.adapters import Network
from dreamstill.collected import Collected
from dreamstill.config import SCHEMA, write_config
from dreamstill.data import KNOWN, ImageSet
from dreamstill.ema import Ema
from dreamstill.engine import Engine, Given
from dreamstill.files import atomic_write, write_json
from dreamstill.loop import Cadence, Outcome, run
from dreamstill.report import write_report
from dreamstill.state import Checkpoints, RunFolder, manifest
from dreamstill.storage import nearest
from dreamstill.tasks import Task
from dreamstill.track import Tracker
from dreamstill.transfer import TransferSet
from dreamstill.weights import save_network

SELECTION = "average of the weights over the last fiftieth of the schedule (EMA); no labelled image chose it"
CURVE_IMAGES = 2_000  # the curve in the report is scored on so many test images; the final figures on all of them


@dataclass
class Plan:
    """A run with every setting resolved."""

    command: str
    config: dict[str, Any]
    out: Path
    resume: bool
    quiet: bool
    method: methods.Method
    given: Given
    test: ImageSet | None
    steps: int
    file: str  # what the delivered network's file is called
    teacher_file: dict[str, Any] = field(default_factory=dict)
    student_file: dict[str, Any] = field(default_factory=dict)  # of first weights that are not the seed's
    compare: bool = True  # whether there is a teacher to compare with
    began: float = field(default_factory=time.monotonic)  # when the command did
    collected: Collected | None = None  # images somebody gathered, where the method needs some
    stored: TransferSet | None = None  # images somebody made before, where the method learns from those

    @property
    def outside(self) -> list[str]:
        """Outside information used: the student's first weights, and the method's own word, exact where it can be."""
        first: list[str] = self.student_file.get("outside", [])
        if self.stored is not None:
            return first + self.stored.outside
        return first + (list(self.method.outside) if self.collected is None else [self.collected.outside])

    @property
    def real_sha256(self) -> str | None:
        """Hex digest of the real images and labels that are learnt from; None where there are none."""
        if self.given.real_pixels is None or self.given.real_labels is None:
            return None
        digest = hashlib.sha256()
        for tensor in (self.given.real_pixels, self.given.real_labels):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass
class Finished:
    """A run at its end, in the hands of what writes its results."""

    plan: Plan
    engine: Engine
    outcome: Outcome
    images: Tensor | None  # what the student learnt from last, as the method gives it (``n c h w``)
    setup: float  # seconds before the first step
    trained: float  # when the last step was done

    @property
    def network(self) -> Network:
        """What is delivered."""
        return self.outcome.ema.network


def anywhere(config: dict[str, Any]) -> dict[str, Any]:
    """Settings with paths that hold from any folder; a set's own name stays."""
    files = [k for k in ("teacher_checkpoint", "student_checkpoint", "data_root", "transfer") if config.get(k)]
    named = (None, "digits", *KNOWN)
    sets = [k for k in ("data", "real", "collected") if config.get(k) not in named and Path(config[k]).exists()]
    return config | {k: str(Path(config[k]).resolve()) for k in (*files, *sets)}


def carry_out(plan: Plan, more: Callable[[Finished], dict[str, Any]]) -> Network:
    """Train, deliver and report; ``more`` adds a command's own files and summary entries."""
    config = plan.config
    cost.reset_peak_memory()
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
    folder = RunFolder(plan.out, plan.resume) if engine.rank == 0 else None
    try:
        if folder is not None:
            extras.say_left_out(_extra_files(plan))
        if folder is not None and not plan.resume:
            _begin(plan)
        ready = time.monotonic()
        outcome = _train(plan, engine)
        trained = time.monotonic()
        images = _images(plan, engine, outcome) if plan.compare else None
        finished = Finished(plan, engine, outcome, images, ready - plan.began, trained)
        if engine.rank == 0:
            _finish(finished, more)
    finally:
        if folder is not None:
            folder.close()
    engine.barrier()
    return finished.network


def _extra_files(plan: Plan) -> dict[str, str]:
    """What a run writes by libraries that may be missing."""
    files = {"onnx": "student.onnx"} if plan.config.get("onnx") else {}
    if hasattr(plan.method, "transfer_set"):
        files["data"] = "transfer.parquet"
    return files | {"plots": "the charts in report.html", "tracking": "tensorboard/"}


def _begin(plan: Plan) -> None:
    about = manifest(plan.outside, plan.teacher_file, plan.config["seed"], cost.machine())
    # Given by its checkpoint or in Python, config.yaml does not say how it was built.
    about["student"] = {"name": plan.given.student.name, "kwargs": plan.given.student.kwargs}
    if plan.collected is not None:
        about["collected_sha256"] = plan.collected.sha256
        for note in plan.collected.notes:
            print(note, flush=True)
        write_json(plan.out / "collected.json", plan.collected.account(getattr(plan.method, "ranking", None)))
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
    drawn = engine.drawn
    engine.begin(outcome.iterations, 1.0)
    with engine.eagerly():  # a graph of a generator's alone would take longer to compile than some images to make
        images = engine.gather(plan.method.synthesise(engine, -(-n // engine.ranks) * engine.ranks))[:n]
    engine.drawn = drawn
    return images


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


def _finish(done: Finished, more: Callable[[Finished], dict[str, Any]]) -> None:
    plan = done.plan
    save_network(plan.out / plan.file, done.network, {"method": plan.config.get("method"), "steps": done.engine.steps})
    summary = {**_facts(done), **_scores(done), **more(done)}
    # Results of the parts belong together: one dictionary each for teacher and student.
    for side in ("teacher", "student"):
        if f"{side}_scores" in summary:
            summary[side] = {**summary[side], **summary.pop(f"{side}_scores")}
    _compare(done)
    outcome = done.outcome
    summary["seconds"] = {
        "setup": done.setup,
        "training": outcome.seconds - outcome.evaluation_seconds,
        "evaluation": outcome.evaluation_seconds,
        "finishing": time.monotonic() - done.trained,
    }
    summary["wall_seconds"] = sum(summary["seconds"].values())
    write_json(plan.out / "summary.json", summary)
    # Last of all, because its presence says that the run is finished.
    write_report(plan.out)


def _compare(done: Finished) -> None:
    """A picture of real images as the networks see them, where the task has one."""
    plan = done.plan
    if plan.test is None or plan.test.labels is None:
        return
    networks = [("student" if plan.compare else "network", done.network)]
    if plan.compare:
        networks.insert(0, ("teacher", plan.given.teacher))
    picture = done.engine.task.comparison(plan.test, networks)
    if picture is not None:
        atomic_write(plan.out / "comparison.png", picture)


def _facts(done: Finished) -> dict[str, Any]:
    plan, engine = done.plan, done.engine
    steps = {name: owned.steps for name, owned in engine.owned.items()}
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "command": plan.command,
        "name": plan.out.name,
        "method": plan.config["method"]["name"] if plan.compare else "supervised",
        "paper": plan.method.paper,
        "task": engine.task.name,
        "student": _describe(done.network),  # what is delivered: a method may have built on what was given
    }
    if plan.compare:
        facts["teacher"] = _describe(plan.given.teacher)
    if engine.bn_left_out:
        facts["bn_left_out"] = engine.bn_left_out
    return facts | {
        "steps": steps["student"],
        "generator_steps": steps.get("generator", 0),
        "images_synthesised": engine.drawn,
        "images_are": getattr(plan.method, "shows", "fresh"),
        "total_flops": done.outcome.flops * engine.ranks,  # each has an equal share of every batch
        "peak_memory_bytes": cost.peak_memory(),
        "seed": engine.seed,
        "device": engine.device.type,
        "processes": engine.ranks,
        "precision": plan.config["precision"],
        "compile": plan.config["compile"] == "on",
        "machine": cost.machine(),
        "selection": SELECTION if plan.compare else SELECTION.split(";")[0],
        "outside_information": plan.outside,
    }


def _describe(network: Network) -> dict[str, Any]:
    counted = cost.count(network, network.channels, network.image_size)
    return {"name": network.name, **counted._asdict()}


def _scores(done: Finished) -> dict[str, Any]:
    """Figures on the labelled set, of the delivered weights and of the last step's."""
    test, plan = done.plan.test, done.plan
    if test is None:
        return {}
    assert test.labels is not None
    task = done.engine.task
    result = task.evaluate(done.network, test, plan.given.teacher if plan.compare else None)
    last = task.predict(plan.method.deliver(), test.pixels)
    theirs = result.get("teacher", {})
    mine: dict[str, Any] = {k: v for k, v in result.items() if k not in ("confusion", "agreement", "teacher")}
    mine[f"{task.headline}_last"] = task.headline_of(last, test.labels, done.network.num_classes)
    found: dict[str, Any] = {
        "student_scores": mine,
        "confusion": result["confusion"],
        "classes": list(test.classes),
        "data": f"{test.name}, {test.split}, {len(test)} images",
    }
    if plan.compare:
        found["agreement"] = result["agreement"]
        found["teacher_scores"] = {k: v for k, v in theirs.items() if k not in ("confusion", "per_class")}
        if theirs[task.headline] > 0:
            found[f"relative_{task.headline}"] = result[task.headline] / theirs[task.headline]
    return found
