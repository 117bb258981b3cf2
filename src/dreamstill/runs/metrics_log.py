"""Record a run's numbers while it runs, in ``metrics.csv``, TensorBoard and the terminal."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from dreamstill import extras
from dreamstill.errors import InputError, first_line
from dreamstill.files import atomic_write
from dreamstill.messages import say
from dreamstill.runs.duration import duration

Row = dict[str, float]
_SILENCE = 60.0  # seconds without a line, at most, where iterations allow it


class Tracker:
    """Collects values by step, keeps ``metrics.csv`` up to date, and shows the progress of the run.

    Args:
        folder: the run folder; None keeps nothing (the other ranks, and trials).
        total: iterations of the run.
        title: the text next to the progress bar.
        quiet: show nothing.
    """

    def __init__(self, folder: Path | None, total: int, title: str, quiet: bool = False) -> None:
        self.folder, self.total, self.title = folder, total, title
        self.rows: dict[int, Row] = {}
        if folder is not None and (folder / "metrics.csv").exists():
            self.rows = read_metrics(folder / "metrics.csv")
        self._board: Any = None
        self._boards = folder is not None and not extras.missing("tracking")
        self._board_from = 0
        self._bar = None if quiet or folder is None else _bar(total, title)
        self._shown, self._said, self._spoke = -1.0, 0, time.monotonic()
        self._began: tuple[int, float] | None = None  # iterations done when the first one seen ended, and when that was
        self._score = ""
        self._quiet = quiet or folder is None

    def log(self, step: int, values: Row) -> None:
        """Record values at a step; several calls at one step make one row."""
        self.rows.setdefault(step, {}).update(values)
        for name in ("accuracy", "miou"):
            if f"eval/{name}" in values:
                self._score = f"{name.replace('miou', 'mean IoU')} {values[f'eval/{name}']:.1%}"
        if self.folder is not None:
            if not self.folder.is_dir():  # writing would make it again, without its settings
                raise InputError(f"{self.folder} was removed while the run went on: start the run again")
            atomic_write(self.folder / "metrics.csv", _as_csv(self.rows))
            if self._boards:
                self._to_board(step, values)

    def progress(self, done: int, values: Row) -> None:
        """Move the bar; where there is no terminal, say a line every tenth of the run, and every minute."""
        if self._quiet:
            return
        now = time.monotonic()
        self._began = self._began or (done, now)
        if self._bar is not None:
            if now - self._shown > 0.2 or done == self.total:
                self._shown = now
                shown = f"{self._score}  {_terms(values)}".lstrip()
                self._bar.update(self._bar.task_ids[0], completed=done, terms=shown)
        elif (tenth := done * 10 // self.total) > self._said or now - self._spoke > _SILENCE:
            self._said, self._spoke = tenth, now
            facts = [f"{done} of {self.total}", self._left(done, now), self._score]
            say(f"{self.title}: {', '.join(filter(None, facts))}  {_terms(values)}")

    def _left(self, done: int, now: float) -> str:
        """How long the rest takes at the speed so far."""
        first, since = self._began or (done, now)
        if done == first or done >= self.total:
            return ""
        return f"{duration((now - since) / (done - first) * (self.total - done))} left"

    def cut(self, step: int) -> None:
        """Drop what was recorded after a step: a resumed run records it again."""
        self.rows = {s: r for s, r in self.rows.items() if s <= step}
        self._board_from = step + 1
        self._said = step * 10 // self.total
        if self.folder is not None:
            atomic_write(self.folder / "metrics.csv", _as_csv(self.rows))

    def lengthen(self, total: int) -> None:
        """Count to another number of iterations."""
        self.total = total
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=total)

    def close(self) -> None:
        """Put the terminal back and flush TensorBoard."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            with contextlib.suppress(OSError):  # the folder is gone or the disk is full; an earlier error said so
                self._board.close()

    def _to_board(self, step: int, values: Row) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            assert self.folder is not None
            # Hide from the curves what an interrupted run wrote after its last checkpoint.
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self._board_from or None)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def read_metrics(path: Path) -> dict[int, Row]:
    """``metrics.csv`` by step. Values that were not recorded at a step are absent.

    Raises:
        InputError: it is damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {int(r["step"]): {k: float(v) for k, v in r.items() if k != "step" and v} for r in rows}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {first_line(error)}). Put it back from a copy, or remove "
            "it, and the curves begin anew"
        ) from error


def _as_csv(rows: dict[int, Row]) -> str:
    columns = dict.fromkeys(k for row in rows.values() for k in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, ["step", *columns], lineterminator="\n")
    writer.writeheader()
    for step in sorted(rows):
        writer.writerow({"step": step, **rows[step]})
    return out.getvalue()


def _terms(values: Row) -> str:
    shown = [(k, v) for k, v in values.items() if "/" in k and not k.startswith("lr/")]
    shown.sort(key=lambda term: not term[0].startswith("student/"))
    return "  ".join(f"{k} {v:.3g}" for k, v in shown[:4])


def _bar(total: int, title: str) -> Progress | None:
    if not sys.stderr.isatty():
        return None
    # The losses take the room that is left, so that the bar still fits into 80 columns.
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)), BarColumn(bar_width=20),
        TaskProgressColumn(), TimeRemainingColumn(), TextColumn("[dim]{task.fields[terms]}", table_column=rest),
    )  # fmt: skip
    bar = Progress(*columns, console=Console(stderr=True), expand=True)
    bar.add_task(title, total=total, terms="")
    bar.start()
    return bar
