"""``dreamstill evaluate``: score a network on real labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from dreamstill.commands.unlabelled import compare_on_images
from dreamstill.errors import InputError
from dreamstill.messages import say, show
from dreamstill.networks.load import (
    FACTS,
    check_trained,
    checkpoint_file,
    has_weights,
    resolve,
)
from dreamstill.networks.network import Network, copied
from dreamstill.networks.reused_classifier import base_of
from dreamstill.networks.state_dicts import sha256
from dreamstill.networks.trust import is_code, refuse_own_code, trusts, trusts_file
from dreamstill.ranges import check_types
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
    check_types(settings)
    if settings.data is None and settings.images is None:
        raise InputError(
            "evaluate needs --data: digits, a name under --data-root, a parquet file, or class folders; or without "
            "labels --images: a folder of photographs"
        )
    if settings.data is not None and settings.images is not None:
        raise InputError("both --data and --images were given: choose labelled images, or unlabelled ones")
    network = delivered(settings.run, settings.student, settings.unsafe_load, settings.trust_code)
    run = _settings_of(settings.run)
    if settings.images is not None:
        teacher = _teacher_of(settings, run if isinstance(run, DistillSettings) else None, network)
        if teacher is None:
            raise InputError(
                f"{settings.images} is compared with the teacher's answers, and there is no teacher: name it by "
                "--teacher and --teacher-checkpoint"
            )
        return compare_on_images(network, teacher, settings.images, settings.data_root)
    assert settings.data is not None
    images = load_scored(
        network, settings.data, settings.split, root=settings.data_root,
        set_size=settings.set_size or (run.set_size if run else None), limit=settings.limit,
    )  # fmt: skip
    teacher = _teacher_of(settings, run if isinstance(run, DistillSettings) else None, network)
    if images.labels is None and teacher is None:
        raise InputError(f"{settings.data} has no labels and there is no teacher to agree with: name one by --teacher")
    for note in (*network.notes, *(teacher.notes if teacher else ())):
        say(note)
    task = task_of(network)
    result = task.evaluate(network, images, teacher)
    rows = [(network.name, result)] + ([(f"{teacher.name} (teacher)", result.get("teacher", {}))] if teacher else [])
    columns = _FIGURES[task.name]
    _print_scores(f"{images.name}, {images.split}, {len(images)} images", rows, columns, result.get("agreement"))
    for who, scores in (("network", result), ("teacher", result.get("teacher", {}))):
        if task.name == "classification" and "confusion" in scores:
            if doubt := suspicion(who, scores["confusion"], images.classes):
                say(doubt)
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
    facts: dict[str, Any] = {k: about[k] for k in FACTS}
    if isinstance(name, nn.Module):
        return name if isinstance(name, Network) else Network(copied(name), **facts)
    unsafe, trust = settings.unsafe_load, settings.unsafe_load or settings.trust_code
    if run is not None and checkpoint is None and name in (None, run.teacher):
        facts, checkpoint, kwargs = told_facts(run), run.teacher_checkpoint, run.teacher_args
        if name is None:
            name = run.teacher
            if checkpoint is None or not Path(checkpoint).exists():
                return None
            trust = trust or trusts(Path(settings.run), str(name), kwargs)
            if is_code(name) and not trust:
                say(
                    f"the run's teacher is {name}, which is code: for the agreement with it, name it by --teacher, or "
                    "pass --trust-code"
                )
                return None
        if not trust:
            base, args = base_of({"name": name, "kwargs": kwargs or {}})
            refuse_own_code(base, Path(settings.run), args)
        # A pickle that the user trusted for this very run, and that has not changed since.
        file = checkpoint_file(Path(checkpoint)) if checkpoint else None
        unsafe = unsafe or (file is not None and file.is_file() and trusts_file(Path(settings.run), sha256(file)))
    has_weights(name, checkpoint)
    key, prefix = (None, None) if run is None else (run.checkpoint_key, run.checkpoint_prefix)

    def found() -> Network:
        return resolve(name, checkpoint, kwargs=kwargs, unsafe=unsafe, trust=trust, key=key, prefix=prefix, **facts)

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
    show(table)
