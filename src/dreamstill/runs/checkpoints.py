"""Checkpoints of a run: the last two, each file with its SHA-256. Every write is atomic.

``checkpoint/`` holds ``state-N.pt`` (tensors and plain values: readable with ``weights_only=True``), the banks'
images as shards that are written once, and ``index-N.json``, which names the files that belong together and their
checksums. The index is written last, so a kill at any moment leaves the previous checkpoint intact. That one is kept
too, in case a file is damaged later. ``latest.json`` is a copy of the newest index. Before the first checkpoint it says
that there is none yet, so a state without an index must have lost its own.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from dreamstill.data.bank import ImageBank
from dreamstill.errors import InputError, first_line
from dreamstill.files import SCRATCH, atomic_write
from dreamstill.messages import say
from dreamstill.networks.state_dicts import sha256
from dreamstill.runs.checkpoint_index import Index, is_content, is_index, read_index, shard_name, write_index

SHARD = 64 << 20  # bytes of a bank's images that are copied and written at a time
LATEST = "latest.json"


class Checkpoints:
    """Writes and reads ``checkpoint/`` of a run folder. ``rank`` 0 writes.

    A bank's shards are append-only. Each holds the images added since the previous checkpoint, and is dropped once
    the ring has overwritten all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._newest: Index | None = None  # read or written last

    def save(self, step: int, state: dict[str, Any], banks: dict[str, ImageBank]) -> None:
        """Write a checkpoint of ``state`` and what was added to the banks."""
        try:
            self.folder.mkdir(exist_ok=True)  # not its parents: a run folder that was removed must not come back
        except OSError as error:
            raise InputError(
                f"no checkpoint can be written to {self.folder} ({error.strerror}): was the run folder removed or "
                "made read-only while the run went on?"
            ) from error
        if self._newest is None and not (self.folder / LATEST).exists():
            write_index(self.folder / LATEST, Index(0))
        before = self._newest or Index(0)
        index = Index(step)
        for name, bank in banks.items():
            self._append(index, before, name, bank)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._write(index, index.state, buffer.getvalue())
        write_index(self.folder / index.name, index)
        write_index(self.folder / LATEST, index)
        self._newest = index
        self._sweep(index, before)

    def load(self, banks: dict[str, ImageBank], quiet: bool = False) -> dict[str, Any] | None:
        """The last intact state, with the banks' images restored; None if there is no checkpoint yet.

        Args:
            banks: they receive the images.
            quiet: say nothing about damaged files if another checkpoint can replace them.

        Raises:
            InputError: there are files of checkpoints, but no checkpoint is intact.
        """
        found, damaged = self._indices()
        for index in found:
            try:
                state = self._restored(index, banks)
            except Exception as error:  # damaged files fail in many ways, each format with errors of its own
                damaged.append(first_line(error))
                continue
            self._newest = index
            if damaged and not quiet:
                say(
                    f"{self.folder}: {'; '.join(damaged)}; going on from the checkpoint of iteration {index.step}, "
                    "which is whole"
                )
            return state
        if damaged:
            raise InputError(
                f"the checkpoint in {self.folder} cannot be read ({'; '.join(damaged)}). Put the files back from a "
                "copy, or start again in a new --out"
            )
        return None

    def _indices(self) -> tuple[list[Index], list[str]]:
        """The checkpoints in the folder, newest first, and what is wrong with their indices."""
        names = sorted(p.name for p in self.folder.iterdir()) if self.folder.is_dir() else []
        found: dict[int, Index] = {}
        damaged: list[str] = []
        for name in (n for n in names if n == LATEST or is_index(n)):
            try:
                index = read_index(self.folder / name)
            except (OSError, ValueError, RecursionError) as error:
                damaged.append(f"{name} is damaged: {first_line(error)}")
                continue
            if index.files:
                found.setdefault(index.step, index)
        if LATEST not in names and any(is_content(n) or is_index(n) for n in names):
            damaged.append(f"{LATEST} is missing")
        return [found[step] for step in sorted(found, reverse=True)], damaged

    def _restored(self, index: Index, banks: dict[str, ImageBank]) -> Any:
        """A checkpoint's state. All of its files are compared with their checksums first."""
        for name, expected in index.files.items():
            if not (self.folder / name).is_file():
                raise ValueError(f"{name} is missing")
            found = sha256(self.folder / name)
            if index.summed and found != expected:
                raise ValueError(f"{name} is damaged: its content and its SHA-256 in {index.name} differ")
            index.files[name] = found
        path = self.folder / index.state
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            for name, bank in banks.items():
                for start, stop in index.shards.get(name, []):
                    path = self.folder / shard_name(name, start, stop)
                    bank.restore(start, load_file(path))
        except Exception as error:
            raise ValueError(f"{path.name} is damaged: {first_line(error)}") from error
        return state

    def _append(self, index: Index, before: Index, name: str, bank: ImageBank) -> None:
        shards = list(before.shards.get(name, []))
        since = shards[-1][1] if shards else 0
        at, most = max(since, bank.added - bank.capacity), max(1, SHARD // bank.row_bytes)
        while at < bank.added:
            stop = min(at + most, bank.added)
            self._write(index, shard_name(name, at, stop), save(bank.rows(at, stop)[1]))
            shards.append((at, stop))
            at = stop
        index.shards[name] = [(a, b) for a, b in shards if b > bank.added - bank.capacity]
        for kept in (shard_name(name, a, b) for a, b in index.shards[name]):
            if kept not in index.files:
                index.files[kept] = before.files[kept]

    def _write(self, index: Index, name: str, content: bytes) -> None:
        atomic_write(self.folder / name, content)
        index.files[name] = hashlib.sha256(content).hexdigest()

    def _sweep(self, *kept: Index) -> None:
        """Remove files that the two newest indices do not name. Only now is that safe."""
        keep = {name for index in kept for name in (index.name, *index.files)}
        for file in self.folder.iterdir():
            ours = is_content(file.name) or SCRATCH.fullmatch(file.name) or is_index(file.name)
            if ours and file.name not in keep:
                file.unlink(missing_ok=True)
