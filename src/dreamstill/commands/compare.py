"""``dreamstill compare``: one page about several runs."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from dreamstill.errors import InputError
from dreamstill.messages import say
from dreamstill.report.comparison import write_comparison


def compare_runs(runs: Sequence[str], out: str | None) -> str:
    """Carry out :func:`dreamstill.api.compare`."""
    if isinstance(runs, str | PathLike):
        raise InputError(f"runs is {runs}: give a list of run folders")
    folders = [Path(run) for run in runs]
    path = write_comparison(folders, Path(out) if out else Path("comparison.html"))
    say(f"{len(folders)} runs compared: {path}")
    return str(path)
