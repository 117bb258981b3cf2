"""Write files so that a reader sees either the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dreamstill.errors import InputError

SCRATCH = re.compile(r"\..+\.\d+\.tmp")  # the temporary names that :func:`replacing` writes to


def atomic_write(path: Path | str, content: bytes | str) -> None:
    """Write ``content`` to ``path`` through a temporary name, flushed to disk before it takes the name.

    Raises:
        InputError: the disk is full or the folder cannot be written; the old file is left as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as handle:
        _write(handle, data)


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write in parts. It gets the name ``path`` once all is on disk; after an error it leaves no trace.

    Raises:
        InputError: the disk is full or the folder cannot be written; the old file is left as it was.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may never have been there
            scratch.unlink()
        raise InputError(
            f"could not write {path} ({error.strerror}), and what was there before is unchanged: free some space, or "
            "choose another --out"
        ) from error
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _write(handle: BinaryIO, data: bytes) -> None:
    handle.write(data)


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    atomic_write(path, json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")


def cache_folder() -> Path:
    """The folder for decoded sets and compiled code: ``DREAMSTILL_CACHE``, or a folder in the user's own cache."""
    return Path(os.environ.get("DREAMSTILL_CACHE", Path.home() / ".cache" / "dreamstill"))
