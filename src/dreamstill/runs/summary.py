"""Write a finished run's results: the network, ``summary.json`` and a picture of real images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dreamstill.files import atomic_write, write_json
from dreamstill.networks import cost
from dreamstill.networks.load import save_network
from dreamstill.networks.network import Network
from dreamstill.runs.machine import machine, peak_memory
from dreamstill.runs.metrics_log import read_metrics
from dreamstill.runs.plan import Finished
from dreamstill.runs.verdict import judge

SUMMARY_SCHEMA = 1
SELECTION = "average of the weights over the last fiftieth of the schedule (EMA); no labelled image chose it"


def write_results(done: Finished, more: Callable[[Finished], dict[str, Any]]) -> None:
    """Write the network, its figures and the picture. ``more`` adds a command's own files and summary entries."""
    plan = done.plan
    save_network(plan.out / plan.file, done.network, {"method": plan.method_spec, "steps": done.engine.steps})
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
    if plan.compare:
        summary["verdict"] = judge(summary, read_metrics(plan.out / "metrics.csv"), plan.out)
    write_json(plan.out / "summary.json", summary)


def _compare(done: Finished) -> None:
    """Write a picture of real images as the networks see them, if the task has one."""
    plan = done.plan
    if plan.inputs.test is None or plan.inputs.test.labels is None:
        return
    networks = [("student" if plan.compare else "network", done.network)]
    if plan.compare:
        networks.insert(0, ("teacher", plan.inputs.given.teacher))
    picture = done.engine.task.comparison(plan.inputs.test, networks)
    if picture is not None:
        atomic_write(plan.out / "comparison.png", picture)


def _facts(done: Finished) -> dict[str, Any]:
    plan, engine = done.plan, done.engine
    steps = {name: owned.steps for name, owned in engine.owned.items()}
    facts: dict[str, Any] = {
        "schema": SUMMARY_SCHEMA,
        "command": plan.settings.command,
        "name": plan.out.name,
        "method": plan.method_spec["name"] if plan.method_spec else "supervised",
        "paper": plan.method.paper,
        "task": engine.task.name,
        "student": _describe(done.network),  # the delivered network: a method may have built on the given one
    }
    if plan.compare:
        facts["teacher"] = _describe(plan.inputs.given.teacher)
    if plan.inputs.notes:
        facts["notes"] = list(plan.inputs.notes)
    if engine.bn_left_out:
        facts["bn_left_out"] = engine.bn_left_out
    return facts | {
        "steps": steps["student"],
        "generator_steps": steps.get("generator", 0),
        "images_synthesised": engine.drawn,
        "images_are": plan.method.shows,
        "total_flops": done.outcome.flops * engine.ranks,  # each has an equal share of every batch
        "peak_memory_bytes": peak_memory(),
        "seed": engine.seed,
        "device": engine.device.type,
        "processes": engine.ranks,
        "precision": plan.hardware.precision,
        "compile": plan.hardware.compile,
        "machine": machine(),
        "selection": SELECTION if plan.compare else SELECTION.split(";")[0],
        "outside_information": plan.outside,
    }


def _describe(network: Network) -> dict[str, Any]:
    counted = cost.count(network, network.channels, network.image_size)
    return {"name": network.name, **counted._asdict()}


def _scores(done: Finished) -> dict[str, Any]:
    """Figures on the labelled set, for the delivered weights and for those of the last step."""
    test, plan = done.plan.inputs.test, done.plan
    if test is None:
        return {}
    assert test.labels is not None
    task = done.engine.task
    result = task.evaluate(done.network, test, plan.inputs.given.teacher if plan.compare else None)
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
