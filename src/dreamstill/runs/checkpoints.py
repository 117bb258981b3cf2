"""Checkpoints of a run. Every write is atomic.

``checkpoint/`` holds ``state-N.pt`` (tensors and plain values: readable with ``weights_only=True``), the banks'
images as shards that are written once, and ``latest.json``, which names the files that belong together. It is
replaced last, so a kill at any moment leaves the previous checkpoint whole.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from dreamstill.data.bank import ImageBank
from dreamstill.errors import InputError
from dreamstill.files import SCRATCH, atomic_write, write_json

CHECKPOINT_SCHEMA = 1
SHARD = 64 << 20  # bytes of a bank's images that are copied and written at a time
_CHECKPOINT = re.compile(r"state-\d+\.pt|bank-.+-\d+-\d+\.safetensors")


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
            {"schema": CHECKPOINT_SCHEMA, "step": step, "state": f"state-{step}.pt", "banks": self._shards},
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
            ours = _CHECKPOINT.fullmatch(file.name) or SCRATCH.fullmatch(file.name)
            if ours and file.name not in keep:
                file.unlink(missing_ok=True)
