"""``config.yaml`` and other YAML files of settings: written with everything resolved, read strictly."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from dreamstill.errors import InputError, first_line
from dreamstill.files import atomic_write
from dreamstill.runs.settings import DistillSettings, RunSettings, TrainSettings

CONFIG_SCHEMA = 1
# Settings that say where files are. Their content is compared instead, because a folder may move.
PLACES = {"teacher_checkpoint", "student_checkpoint", "data_root", "transfer", "data", "real", "collected"}
# The largest file: its bytes, the values in it with all aliases expanded, and their depth.
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 1_000_000, 20_000, 50
WATCHING = {"checkpoint_seconds", "checkpoint_steps"}  # how a run is watched, not what it computes


def write_config(path: Path, settings: RunSettings) -> None:
    """Write the resolved settings of a command as YAML that ``dreamstill COMMAND --config`` accepts."""
    names = [f.name for f in fields(settings) if f.name not in settings.unsaved]
    saved = {name: getattr(settings, name) for name in names}
    text = yaml.safe_dump(saved, sort_keys=False, allow_unicode=True, default_flow_style=False)
    atomic_write(path, f"# dreamstill {settings.command}, configuration schema {CONFIG_SCHEMA}\n{text}")


def settings_sum(settings: RunSettings) -> str:
    """SHA-256 of the settings that decide what a run computes, not where files are or how it is watched."""
    names = {f.name for f in fields(settings)} - {*settings.unsaved, *PLACES, *WATCHING}
    content = {name: getattr(settings, name) for name in sorted(names)}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_run(path: Path) -> RunSettings:
    """The settings that :func:`write_config` wrote. Those that an earlier version did not know get their defaults."""
    content = read_config(path)
    kind = TrainSettings if "network" in content else DistillSettings
    return kind(**{f.name: content[f.name] for f in fields(kind) if f.name in content})


def read_config(path: Path) -> dict[str, Any]:
    """Read what :func:`write_config` wrote."""
    return read_settings(path, "the settings", "the run needs them to go on")


def read_settings(path: Path, what: str, hint: str) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Args:
        path: of the file.
        what: the file's name in errors, as "the recipe".
        hint: what to do about a wrong file, as the end of a sentence.

    Raises:
        InputError: the file cannot be read, is not YAML, or holds no settings.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise InputError(f"{what} {path} has more than {_MOST_BYTES:,} bytes: {hint}")
        text = raw.decode("utf-8")
        _check_extent(text)
        content = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror}): {hint}") from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise InputError(f"{what} {path} cannot be read, it is not a text: {hint}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", error)
        raise InputError(f"{what} {path} cannot be read, it is not YAML{where} ({said}): {hint}") from error
    except (ValueError, RecursionError, AttributeError) as error:  # an impossible date, a number that is too long, ...
        raise InputError(f"{what} {path} cannot be read ({first_line(error)}): {hint}") from error
    if not isinstance(content, dict):
        kind = "is empty" if content is None else f"holds a {type(content).__name__} and no settings by name"
        raise InputError(f"{what} {path} {kind}: {hint}")
    return content


def _check_extent(text: str) -> None:
    """Make sure that a YAML text is small and shallow with its aliases expanded, before it is built.

    Raises:
        ValueError: it is too large or too deep, or something in it contains itself.
        yaml.YAMLError: it is not YAML.
    """
    sizes: dict[str, tuple[int, int]] = {}  # of everything with an anchor: the values in it, and their depth
    inside: list[tuple[str | None, int, int]] = []  # open collections: their anchor, and the same two numbers so far
    for event in yaml.parse(text, yaml.SafeLoader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((anchor, 1, 1))
            size, depth = 0, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size, depth = inside.pop()
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == opened for opened, _, _ in inside):
                raise ValueError(f"{anchor} holds itself")
            size, depth = sizes.get(anchor or "", (1, 1))
        elif isinstance(event, yaml.ScalarEvent):
            size, depth = 1, 1
        else:
            continue
        if anchor and size:
            sizes[anchor] = (size, depth)
        if inside and size:
            opened, so_far, deepest = inside[-1]
            inside[-1] = (opened, so_far + size, max(deepest, depth + 1))
        if size > _MOST_VALUES or depth + len(inside) > _DEEPEST:
            raise ValueError(f"it has more than {_MOST_VALUES:,} values, or is more than {_DEEPEST} deep")
