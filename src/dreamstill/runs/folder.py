"""The folder of a run: make a new one, and lock it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dreamstill.errors import InputError
from dreamstill.files import SCRATCH

# What a run writes. A folder that holds such files without a run's settings belongs to the user.
_OURS = {
    "checkpoint", "metrics.csv", "tensorboard", "student.safetensors", "student.onnx", "model.safetensors",
    "samples.png", "comparison.png", "summary.json", "report.html", "transfer.parquet", "images.safetensors",
    "README.md",
}  # fmt: skip


class RunFolder:
    """One run's folder, locked for one writer while it is open.

    Args:
        path: the folder; made if missing.
        resume: whether it must hold a run to go on with, or must not hold one.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        has_run = (path / "config.yaml").exists()
        if resume and not has_run:
            raise InputError(f"{path} holds no run to resume: leave out --resume, or name the folder with --out")
        if has_run and not resume:
            raise InputError(f"{path} already holds a run: choose another --out, or go on with it with --resume")
        if not resume and path.is_dir() and (taken := sorted(p.name for p in path.iterdir() if p.name in _OURS)):
            raise InputError(
                f"{path} holds no run, and a run would overwrite its {', '.join(taken)}: choose another --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / ".lock", "w")
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}): choose another --out") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{path} is being written by another process: wait for it, or choose another --out"
            ) from error
        for left_over in path.iterdir():  # from a process that was killed while it wrote
            if SCRATCH.fullmatch(left_over.name) and left_over.is_file():
                left_over.unlink()

    def close(self) -> None:
        """Release the lock."""
        (self.path / ".lock").unlink(missing_ok=True)  # before the release: afterwards it may belong to another run
        self._lock.close()


def folder_for(out: str | None, stem: str) -> Path:
    """The folder of a run: ``out`` if it is given, else a new one under ``runs``."""
    return Path(out) if out else new_folder(Path("runs"), stem)


def new_folder(base: Path, stem: str) -> Path:
    """``base/stem-001``, or the first number that is free."""
    return next(p for i in range(1, 10_000) if not os.path.lexists(p := base / f"{stem}-{i:03d}"))
