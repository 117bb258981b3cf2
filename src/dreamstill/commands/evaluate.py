"""``dreamstill evaluate``: score a network on real labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dreamstill.errors import InputError
from dreamstill.networks.libraries import is_library
from dreamstill.networks.load import (
    FACTS,
    check_trained,
    has_weights,
    refuse_own_code,
    resolve,
)
from dreamstill.networks.network import Network
from dreamstill.networks.reused_classifier import base_of
from dreamstill.runs.config_file import read_run
from dreamstill.runs.delivered import delivered
from dreamstill.runs.inputs import told_facts
from dreamstill.runs.random_numbers import kept_random_streams
from dreamstill.runs.settings import DistillSettings, EvaluateSettings, RunSettings
from dreamstill.tasks import task_of
from dreamstill.tasks.checks import load_scored
from dreamstill.tasks.label_order import suspicion


@kept_random_streams()
def run_evaluation(settings: EvaluateSettings) -> dict[str, Any]:
    """Carry out :func:`dreamstill.api.evaluate`."""
    if settings.data is None:
        raise InputError("evaluate needs --data: digits, a name under --data-root, a parquet file, or class folders")
    network = delivered(settings.run, settings.student, settings.unsafe_load)
    run = _settings_of(settings.run)
    images = load_scored(
        network, settings.data, settings.split, root=settings.data_root,
        set_size=settings.set_size or (run.set_size if run else None), limit=settings.limit,
    )  # fmt: skip
    teacher = _teacher_of(settings, run if isinstance(run, DistillSettings) else None, network)
    if images.labels is None and teacher is None:
        raise InputError(f"{settings.data} has no labels and there is no teacher to agree with: name one by --teacher")
    for note in (*network.notes, *(teacher.notes if teacher else ())):
        print(note, flush=True)
    task = task_of(network)
    result = task.evaluate(network, images, teacher)
    rows = [(network.name, result)] + ([(f"{teacher.name} (teacher)", result.get("teacher", {}))] if teacher else [])
    columns = _FIGURES[task.name]
    _print_scores(f"{images.name}, {images.split}, {len(images)} images", rows, columns, result.get("agreement"))
    for who, scores in (("network", result), ("teacher", result.get("teacher", {}))):
        if task.name == "classification" and "confusion" in scores:
            if doubt := suspicion(who, scores["confusion"], images.classes):
                print(doubt, flush=True)
    return result


def _settings_of(run: str) -> RunSettings | None:
    """The settings of a run folder. A single file has none."""
    path = Path(run) / "config.yaml"
    return read_run(path) if path.exists() else None


def _teacher_of(settings: EvaluateSettings, run: DistillSettings | None, network: Network) -> Network | None:
    """The teacher named now, or the run's own if its file is still there."""
    name, checkpoint, kwargs = settings.teacher, settings.teacher_checkpoint, None
    if run is None and name is None and checkpoint is None:
        return None
    about = network.description()
    facts = {k: about[k] for k in FACTS}
    if run is not None and checkpoint is None and name in (None, run.teacher):
        facts, checkpoint, kwargs = told_facts(run), run.teacher_checkpoint, run.teacher_args
        if name is None:
            name = run.teacher
            if checkpoint is None or not Path(checkpoint).exists():
                return None
            if ":" in str(name) and not is_library(name) and not settings.unsafe_load:
                print(f"the run's teacher is {name}, which is code: for the agreement with it, name it by --teacher")
                return None
        if not settings.unsafe_load:
            refuse_own_code(base_of({"name": name, "kwargs": kwargs or {}}), Path(settings.run))
    has_weights(name, checkpoint)
    key, prefix = (None, None) if run is None else (run.checkpoint_key, run.checkpoint_prefix)

    def found() -> Network:
        return resolve(name, checkpoint, kwargs=kwargs, unsafe=settings.unsafe_load, key=key, prefix=prefix, **facts)

    teacher = found()
    check_trained(teacher, checkpoint, found)
    return teacher


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
