"""Runs that this user made on this machine: what they name may be imported again without asking.

A run that names code (``package.module:factory``) or was given a pickled teacher keeps in ``manifest.json`` what it
named, signed with a key that only this user has. A file from elsewhere, or a changed one, has no such signature.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamstill.errors import InputError
from dreamstill.files import cache_folder
from dreamstill.networks import libraries

Named = tuple[str, Mapping[str, Any]]  # a factory or method, and its arguments


def is_code(name: Any) -> bool:
    """Whether a name is a ``package.module:factory``."""
    return isinstance(name, str) and ":" in name and not libraries.is_library(name)


def refuse_own_code(name: Any, path: Path | None, kwargs: dict[str, Any] | None = None) -> None:
    """A file must not choose which code is imported and called, but for a run that this user made here.

    Raises:
        InputError: ``name`` is a ``package.module:factory``.
    """
    if is_code(name) and not trusts(path, name, kwargs):
        raise InputError(
            f"{path} asks for {name}, and calling that executes code of the file's choice: if you trust it, pass "
            "--trust-code (in Python trust_code=True), or name it yourself where the command has a place for it "
            "(--teacher, --student, --network, --method)"
        )


def signed(code: Sequence[Named], files: Sequence[str]) -> dict[str, Any] | None:
    """What a run's manifest says of the code it named; None where there is none, or no key can be kept.

    Args:
        code: factories and methods with their arguments.
        files: SHA-256 of the pickled files that the user trusted.
    """
    key = _key(make=True) if code or files else None
    if key is None:
        return None
    content = {"code": [[name, dict(kwargs)] for name, kwargs in code], "files": list(files)}
    return {**content, "signature": _signature(key, content)}


def trusts(path: Path | None, name: str, kwargs: Mapping[str, Any] | None) -> bool:
    """Whether this user made the run in ``path`` (its folder or a file in it) here, and named this code for it."""
    return [name, _plain(dict(kwargs or {}))] in _own(path)["code"]


def trusts_file(path: Path | None, sha256: str) -> bool:
    """Whether this user trusted a pickled file of this digest for the run in ``path``."""
    return sha256 in _own(path)["files"]


def _own(path: Path | None) -> dict[str, list[Any]]:
    nothing: dict[str, list[Any]] = {"code": [], "files": []}
    if path is None or (key := _key(make=False)) is None:
        return nothing
    folder = path if path.is_dir() else path.parent
    try:
        found = json.loads((folder / "manifest.json").read_text())["own"]
        content = {name: found[name] for name in nothing}
        genuine = hmac.compare_digest(str(found["signature"]), _signature(key, content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return nothing
    return content if genuine else nothing


def _signature(key: bytes, content: Mapping[str, Any]) -> str:
    return hmac.new(key, json.dumps(_plain(content), sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _plain(value: Any) -> Any:
    """As it is after it was written down and read."""
    return json.loads(json.dumps(value, default=str))


def _key(make: bool) -> bytes | None:
    """This user's key, made if there is none; one that others could read or wrote is none."""
    path = cache_folder() / "own-runs.key"
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(scratch, path)  # of two processes the first one's stays
            except FileExistsError:
                pass
            finally:
                scratch.unlink()
        about = path.stat()
        if about.st_uid != os.getuid() or about.st_mode & 0o077:
            return None
        return path.read_bytes()
    except OSError:
        return None
