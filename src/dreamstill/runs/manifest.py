"""``manifest.json``: the facts needed to repeat a run."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dreamstill.errors import InputError

MANIFEST_SCHEMA = 1


@dataclass(frozen=True)
class Weights:
    """The source of a network's first weights, if it is not the seed."""

    file: str | None = None
    sha256: str | None = None  # of the file, or of the tensors if there is no file
    fingerprint: str | None = None  # of the tensors, whatever file holds them
    outside: tuple[str, ...] = ()  # information that was used in making them


def manifest(outside: list[str], teacher: Weights, seed: int, machine: dict[str, Any]) -> dict[str, Any]:
    """The facts needed to repeat a run."""
    packages = ("dreamstill", "torch", "lightning", "numpy", "safetensors")
    return {
        "schema": MANIFEST_SCHEMA,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "commit": _commit(),
        "command": shlex.join(sys.argv),
        "hardware": machine,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "teacher_sha256": teacher.sha256,
        "teacher_file": teacher.file,
        "outside_information": outside,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a run folder.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / "manifest.json"
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict) and isinstance(found.get("outside_information"), list):
            return found
        why = "it holds no outside_information, which every run writes"
    except (OSError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    raise InputError(f"{path} cannot be used ({why}). Give a complete run folder, as dreamstill left it")


def _commit() -> str | None:
    """The commit of the source that this runs from, marked if files differ from it; None for an installed copy."""
    here = Path(__file__).parents[1]  # the whole package
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
