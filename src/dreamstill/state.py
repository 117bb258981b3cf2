"""What a run folder keeps while it is being made: lock, checkpoint, manifest. Every write is atomic.

``checkpoint/`` holds ``state-N.pt`` (tensors and plain values: readable with ``weights_only=True``), the banks'
images as shards that are written once, and ``latest.json``, which names the files that belong together. It is
replaced last, so a kill at any moment leaves the previous checkpoint whole.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from dreamstill.banks import ImageBank
from dreamstill.errors import InputError
from dreamstill.files import atomic_write, write_json

SCHEMA = 1
SHARD = 64 << 20  # bytes of a bank's images that are copied and written at a time
# What a run writes: a folder that holds some of it without a run's settings is somebody's.
_OURS = {
    "checkpoint", "metrics.csv", "tensorboard", "student.safetensors", "student.onnx", "model.safetensors",
    "samples.png", "comparison.png", "summary.json", "report.html", "transfer.parquet", "images.safetensors",
}  # fmt: skip
_SCRATCH = re.compile(r"\..+\.\d+\.tmp")  # of dreamstill.files
_CHECKPOINT = re.compile(r"state-\d+\.pt|bank-.+-\d+-\d+\.safetensors")


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
            raise InputError(f"{path} already holds a run: choose another --out, or go on with it by --resume")
        if not resume and path.is_dir() and (taken := sorted(p.name for p in path.iterdir() if p.name in _OURS)):
            raise InputError(
                f"{path} holds no run, and a run would write over its {', '.join(taken)}: choose another --out"
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
        for left_over in path.iterdir():  # of a process that was killed while it wrote
            if _SCRATCH.fullmatch(left_over.name) and left_over.is_file():
                left_over.unlink()

    def close(self) -> None:
        """Let go of the lock."""
        (self.path / ".lock").unlink(missing_ok=True)  # before it is released: afterwards it may be another's
        self._lock.close()


class Checkpoints:
    """Writes and reads ``checkpoint/`` of a run folder. ``rank`` 0 writes.

    A bank's shards are append-only: each holds the images added since the checkpoint before, and is dropped once
    the ring has overwritten all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, list[tuple[int, int]]] = {}

    def save(self, step: int, state: dict[str, Any], banks: dict[str, ImageBank]) -> None:
        """Write a checkpoint of ``state`` and what was added to the banks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, bank in banks.items():
            self._append(name, bank)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        atomic_write(self.folder / f"state-{step}.pt", buffer.getvalue())
        write_json(
            self.folder / "latest.json",
            {"schema": SCHEMA, "step": step, "state": f"state-{step}.pt", "banks": self._shards},
        )
        self._sweep(f"state-{step}.pt")

    def load(self, banks: dict[str, ImageBank]) -> dict[str, Any] | None:
        """The last state, with the banks' images put back; None if there is no checkpoint yet."""
        latest = self.folder / "latest.json"
        if not latest.exists():
            return None
        try:
            index = json.loads(latest.read_text())
            state = torch.load(self.folder / index["state"], weights_only=True, map_location="cpu")
            self._shards = {k: [(a, b) for a, b in v] for k, v in index["banks"].items()}
            for name, bank in banks.items():
                for start, stop in self._shards.get(name, []):
                    rows = load_file(self._shard(name, start, stop))
                    bank.restore(start, rows)
        except Exception as error:  # damaged files fail in many ways, each format with errors of its own
            raise InputError(
                f"the checkpoint in {self.folder} cannot be read ({error}): start again in a new --out"
            ) from error
        return state

    def _append(self, name: str, bank: ImageBank) -> None:
        shards = self._shards.setdefault(name, [])
        since = shards[-1][1] if shards else 0
        at, most = max(since, bank.added - bank.capacity), max(1, SHARD // bank.row_bytes)
        while at < bank.added:
            stop = min(at + most, bank.added)
            atomic_write(self._shard(name, at, stop), save(bank.rows(at, stop)[1]))
            shards.append((at, stop))
            at = stop
        self._shards[name] = [(a, b) for a, b in shards if b > bank.added - bank.capacity]

    def _shard(self, name: str, start: int, stop: int) -> Path:
        return self.folder / f"bank-{name}-{start}-{stop}.safetensors"

    def _sweep(self, state: str) -> None:
        """Remove what the newest index does not name: only now is it safe."""
        keep = {state, "latest.json"}
        keep |= {self._shard(n, a, b).name for n, shards in self._shards.items() for a, b in shards}
        for file in self.folder.iterdir():
            ours = _CHECKPOINT.fullmatch(file.name) or _SCRATCH.fullmatch(file.name)
            if ours and file.name not in keep:
                file.unlink(missing_ok=True)


def manifest(outside: list[str], teacher: dict[str, Any], seed: int, machine: dict[str, Any]) -> dict[str, Any]:
    """What somebody needs to know to make the same run again."""
    packages = ("dreamstill", "torch", "lightning", "numpy", "safetensors")
    return {
        "schema": SCHEMA,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "commit": _commit(),
        "command": shlex.join(sys.argv),
        "hardware": machine,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "teacher_sha256": teacher.get("sha256"),
        "teacher_file": teacher.get("file"),
        "outside_information": outside,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """What :func:`manifest` said of a run.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / "manifest.json"
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict) and isinstance(found.get("outside_information"), list):
            return found
        why = "it holds no outside_information, which every run writes"
    except (OSError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    raise InputError(f"{path} cannot be used ({why}): give a whole run folder, as dreamstill left it")


def _commit() -> str | None:
    """The commit of the source this runs from, marked when files differ from it; None for an installed copy."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        ask = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        if ask.returncode:
            return None
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--", str(here)], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ask.stdout.strip() + ("-modified" if dirty.stdout.strip() else "")


def new_folder(base: Path, stem: str) -> Path:
    """``base/stem-001``, or the first number that is free."""
    return next(p for i in range(1, 10_000) if not os.path.lexists(p := base / f"{stem}-{i:03d}"))
