"""The index of a checkpoint: the names of its files and the SHA-256 of each, in JSON with a checksum of its own."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamstill.files import write_json

CHECKPOINT_SCHEMA = 2
_FILE = re.compile(r"state-\d+\.pt|bank-[^/\\]+-\d+-\d+\.safetensors")
_INDEX = re.compile(r"index-\d+\.json")
_FIRST_SCHEMA = {"schema", "step", "state", "banks"}  # of versions without checksums

Shards = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Index:
    """One checkpoint: its iteration, the banks' shards by first and last image, and the SHA-256 of every file."""

    step: int
    shards: Shards = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # empty before a run's first checkpoint
    summed: bool = True  # whether the index records checksums

    @property
    def state(self) -> str:
        """The name of the file with everything but the banks' images."""
        return f"state-{self.step}.pt"

    @property
    def name(self) -> str:
        """The name of the index's own file."""
        return f"index-{self.step}.json"


def shard_name(bank: str, start: int, stop: int) -> str:
    """The name of the file with a bank's images from one number up to another."""
    return f"bank-{bank}-{start}-{stop}.safetensors"


def is_content(name: str) -> bool:
    """Whether a file of this name holds a part of a checkpoint."""
    return _FILE.fullmatch(name) is not None


def is_index(name: str) -> bool:
    """Whether a file of this name is the index of a checkpoint."""
    return _INDEX.fullmatch(name) is not None


def write_index(path: Path, index: Index) -> None:
    """Write an index, with the checksum that :func:`read_index` compares."""
    state = index.state if index.files else None
    content: dict[str, Any] = {"schema": CHECKPOINT_SCHEMA, "step": index.step, "state": state}
    content |= {"banks": index.shards, "files": index.files}
    write_json(path, {**content, "sum": _sum(content)})


def read_index(path: Path) -> Index:
    """Read an index that :func:`write_index`, or an earlier version, wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or names files that cannot belong to a checkpoint.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is no index")
    summed = content.get("schema") == CHECKPOINT_SCHEMA
    if summed and content.pop("sum", None) != _sum(content):
        raise ValueError("its content and its own SHA-256 differ")
    if not summed and (content.get("schema") != 1 or set(content) != _FIRST_SCHEMA):
        raise ValueError("it is no index of a schema that this version reads")
    try:
        step, state = int(content["step"]), content["state"]
        shards = {str(k): [(int(a), int(b)) for a, b in v] for k, v in content["banks"].items()}
        files = {str(k): str(v) for k, v in content["files"].items()} if summed else {}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no index ({error})") from error
    if state is None and summed:
        return Index(step)
    index = Index(step, shards, files, summed)
    names = {state, *(shard_name(k, a, b) for k, parts in shards.items() for a, b in parts)}
    if state != index.state or not all(map(is_content, names)) or (summed and names != set(files)):
        raise ValueError("it names files that are no checkpoint's")
    return index if summed else Index(step, shards, dict.fromkeys(names, ""), False)


def _sum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
