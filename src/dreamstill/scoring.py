"""The commands that only look: ``evaluate``, ``doctor`` and ``methods``."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dreamstill import doctor, methods, state_files, weights
from dreamstill.adapters import Network
from dreamstill.config import read_config
from dreamstill.errors import InputError
from dreamstill.models.shared import base_of
from dreamstill.tasks import load_scored, task_of


def run_evaluation(settings: dict[str, Any]) -> dict[str, Any]:
    """Carry out :func:`dreamstill.api.evaluate`."""
    if settings["data"] is None:
        raise InputError("evaluate needs --data: digits, a name under --data-root, a parquet file, or class folders")
    network = weights.load_network(settings["run"], unsafe=settings["unsafe_load"])
    images = load_scored(
        network, settings["data"], settings["split"], root=settings["data_root"],
        set_size=settings["set_size"] or _config(settings["run"]).get("set_size"), limit=settings["limit"],
    )  # fmt: skip
    teacher = _teacher_of(settings, network)
    if images.labels is None and teacher is None:
        raise InputError(
            f"{settings['data']} has no labels and there is no teacher to agree with: name one by --teacher"
        )
    task = task_of(network)
    result = task.evaluate(network, images, teacher)
    rows = [(network.name, result)] + ([(f"{teacher.name} (teacher)", result.get("teacher", {}))] if teacher else [])
    columns = _FIGURES[task.name]
    _print_scores(f"{images.name}, {images.split}, {len(images)} images", rows, columns, result.get("agreement"))
    return result


def _config(run: str) -> dict[str, Any]:
    """The settings of a run folder; of a single file there are none."""
    path = Path(run) / "config.yaml"
    return read_config(path) if path.exists() else {}


def _teacher_of(settings: dict[str, Any], network: Network) -> Network | None:
    """The teacher named now, or the run's own if its file is still there."""
    name, checkpoint, kwargs = settings["teacher"], settings["teacher_checkpoint"], None
    about, config = network.description(), _config(settings["run"])
    if checkpoint is None and name in (None, config.get("teacher")):
        about, checkpoint, kwargs = config, config.get("teacher_checkpoint"), config.get("teacher_args")
        if name is None:
            name = config.get("teacher")
            if checkpoint is None or not Path(checkpoint).exists():
                return None
            if ":" in str(name) and not settings["unsafe_load"]:
                print(f"the run's teacher is {name}, which is code: for the agreement with it, name it by --teacher")
                return None
        if not settings["unsafe_load"]:
            weights.refuse_own_code(base_of({"name": name, "kwargs": kwargs or {}}), Path(settings["run"]))
    weights.has_weights(name, checkpoint)
    facts = {k: about[k] for k in weights.FACTS}
    return weights.resolve(name, checkpoint, kwargs=kwargs, unsafe=settings["unsafe_load"], **facts)


_FIGURES = {
    "classification": {"accuracy": "accuracy", "ece": "calibration error"},
    "segmentation": {"miou": "mean IoU", "pixel_accuracy": "pixel accuracy"},
}


def _print_scores(
    title: str, rows: list[tuple[str, dict[str, Any]]], figures: dict[str, str], agreement: float | None
) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("network")
    for column in (*figures.values(), "agreement"):
        table.add_column(column, justify="right")
    for i, (name, scores) in enumerate(rows):
        same = f"{agreement:.2%}" if agreement is not None and i == 0 else ""
        cells = [f"{scores[k]:.2%}" if k in scores else "" for k in figures]
        table.add_row(name, *cells, same)
    Console().print(table)


def run_doctor(settings: dict[str, Any]) -> dict[str, Any]:
    """Carry out :func:`dreamstill.api.doctor`."""
    name, checkpoint = settings["teacher"], settings["checkpoint"]
    if checkpoint is None and Path(name).exists():  # a run folder or a file that describes itself
        name, checkpoint = None, name
    facts = {k: settings[k] for k in weights.FACTS}
    described: dict[str, Any] = {}
    if checkpoint is not None:
        _, described = state_files.load_state(weights.checkpoint_file(Path(checkpoint)), unsafe=settings["unsafe_load"])
    # A bare file says nothing about its images: look at it with the commonest assumptions, and say so.
    assumed = {"image_size": 32, "mean": None, "std": None}
    assumptions = []
    for key, value in assumed.items():
        if facts[key] is None and key not in described:
            facts[key] = value
            assumptions.append(key)
    channels = facts["channels"] or described.get("channels") or _first_channels(checkpoint, settings["unsafe_load"])
    facts["channels"] = channels
    for key, neutral in (("mean", 0.0), ("std", 1.0)):
        if key in assumptions:
            facts[key] = [neutral] * channels
    network = weights.resolve(
        name, checkpoint, kwargs=settings["teacher_args"], unsafe=settings["unsafe_load"], **facts
    )
    sha256 = None if checkpoint is None else state_files.sha256(weights.checkpoint_file(Path(checkpoint)))
    report = doctor.examine(network, sha256)
    if checkpoint is None and ":" not in name:
        assumptions.append("weights")
    report["assumed"] = assumptions
    if settings["json"]:
        print(json.dumps(report, indent=2))
    else:
        doctor.render(report)
        if assumptions:
            values = {**facts, "weights": "random"}
            print(f"not given, so assumed: {', '.join(f'{k} {values[k]}' for k in assumptions)}")
    return report


def _first_channels(checkpoint: str | None, unsafe: bool) -> int:
    """Channels of the images, read off the first convolution in the file."""
    if checkpoint is None:
        return 3
    state, _ = state_files.load_state(weights.checkpoint_file(Path(checkpoint)), unsafe=unsafe)
    return next((int(t.shape[1]) for t in state.values() if t.dim() == 4), 3)


def list_methods(as_json: bool) -> list[dict[str, Any]]:
    """Carry out :func:`dreamstill.api.methods`."""
    found = []
    for name, package in sorted(methods.names().items(), key=lambda item: (item[1].endswith("controls"), item[0])):
        cls = methods.get(name)
        found.append(
            {
                "name": name,
                "kind": "control" if package.endswith("controls") else "method",
                "paper": cls.paper,
                "needs": sorted(cls.needs),
                "outside": list(cls.outside),
                "tasks": sorted(cls.tasks),
                "settings": {f.name: f.default for f in fields(cls)},
            }
        )
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        table = Table("method", "paper", "tasks", "needs of the teacher", "outside information")
        for row in found:
            outside = ", ".join(row["outside"]) or "none"
            table.add_row(row["name"], row["paper"], ", ".join(row["tasks"]), ", ".join(row["needs"]), outside)
        Console().print(table)
    return found
