"""Read state dicts from files. Loading a file does not execute anything in it, and errors name what does not fit."""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dreamstill.errors import InputError, first_line
from dreamstill.networks.file_checks import (
    check_dense,
    check_description,
    check_sum,
    check_unpacked_size,
    shown,
)
from dreamstill.networks.file_kinds import PROGRAMS, file_kind
from dreamstill.networks.fitting import apply_state as apply_state
from dreamstill.networks.fitting import is_average

NETWORK_SCHEMA = 1
_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "shadow")

_DEEPEST = 10  # levels of nesting: a dictionary may hold itself


class Found(NamedTuple):
    """What a weights file holds."""

    state: dict[str, Tensor]
    description: dict[str, Any]  # its own, if dreamstill wrote it, else empty
    notes: list[str]  # a sentence for each thing that was chosen or passed over
    module: nn.Module | None = None  # from a pickle that holds a whole network


def load_state(path: Path, *, unsafe: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a checkpoint, and its own description if dreamstill wrote it (else empty): see :func:`read_state`."""
    found = read_state(path, unsafe=unsafe)
    return found.state, found.description


def read_state(path: Path, *, unsafe: bool = False, key: str | None = None) -> Found:
    """What a checkpoint holds.

    Args:
        path: safetensors, or anything that ``torch.load`` reads; the file's bytes decide which.
        unsafe: load pickled objects too, which runs whatever code the file holds.
        key: which of several networks in the file.

    Raises:
        InputError: missing, truncated, not a checkpoint, or it would execute code.
    """
    if not path.is_file():
        what = "is a folder without a student.safetensors or model.safetensors" if path.is_dir() else "does not exist"
        raise InputError(f"checkpoint {path} {what}: give a .safetensors or .pt file, or a run folder")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read ({error.strerror}): check its permissions") from error
    if not start:
        raise InputError(f"checkpoint {path} is empty: fetch it again")
    if start.lstrip().lower().startswith((b"version https://git-lfs", b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"checkpoint {path} is a text page or a Git LFS pointer, not the file itself: fetch it again")
    kind = file_kind(path)
    if kind == "safetensors":
        return Found(*_load_safetensors(path), [])
    if kind in PROGRAMS:
        advice = "" if kind == "onnx" else " with --unsafe-load"
        raise InputError(
            f"checkpoint {path} is {PROGRAMS[kind]}, which holds its own network: give it without a network's name"
            f"{advice}, or save the network's state_dict()"
        )
    content = _load_torch(path, unsafe)
    state, notes = _plain_state(content, path, key)
    return Found(state, {}, notes, _whole(content, key))


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata() or {}
        description = json.loads(metadata.get("dreamstill", "{}"))
        if not isinstance(description, dict):
            raise ValueError(f"its description is {shown(description)}")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"checkpoint {path} is corrupt or cut short ({first_line(error)}): fetch it again") from error
    check_description(description, path)
    check_sum(description, state, path)
    return state, description


def _load_torch(path: Path, unsafe: bool) -> Any:
    called = _called_by(path)
    if called and not unsafe:
        raise InputError(_would_execute(path, called))
    check_unpacked_size(path)
    try:
        if called:  # torch.load would run it, and then miss a header of its own
            with path.open("rb") as file:
                return pickle.load(file)
        return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        # torch uses this error for refused classes and for garbage; only the former names a GLOBAL.
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(_would_execute(path, refused[1])) from error
        raise InputError(
            f"checkpoint {path} is not a readable checkpoint: fetch it again, or save the network's state_dict() with "
            "torch.save"
        ) from error
    except Exception as error:  # damaged bytes fail in a dozen ways: IndexError, struct.error, AssertionError, ...
        if unsafe and isinstance(error, AttributeError | ImportError):
            raise InputError(
                f"checkpoint {path} needs code that is not here ({first_line(error)}): make it importable, or save "
                "the state_dict() where it is"
            ) from error
        # An unpickler's own words on damaged bytes ("pop from empty list") help nobody.
        said = "" if isinstance(error, IndexError | KeyError | AttributeError) else f" ({first_line(error)})"
        raise InputError(f"checkpoint {path} is corrupt or cut short{said}: fetch it again") from error


def _would_execute(path: Path, what: str) -> str:
    return (
        f"checkpoint {path} holds pickled Python objects ({what}), and loading them would execute code from the file: "
        "save its state_dict() instead, or pass --unsafe-load if you trust whoever made it"
    )


def _called_by(path: Path) -> str | None:
    """The first class or function that a bare pickle imports, without loading it; None for a file of torch.save."""
    texts: list[str] = []
    found: str | None = None
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":  # torch.save's archive
                return None
            file.seek(0)
            for op, arg, _ in pickletools.genops(file):
                if op.name in ("GLOBAL", "INST"):
                    found = found or str(arg).replace(" ", ".")
                elif op.name == "STACK_GLOBAL":
                    found = found or ".".join(texts[-2:])
                elif isinstance(arg, str):
                    texts.append(arg)
    except Exception:  # not a pickle, or a damaged one: the next reader says so
        return None
    return found


def _plain_state(
    content: Any, path: Path, key: str | None = None, depth: int = 0
) -> tuple[dict[str, Tensor], list[str]]:
    """Unwrap the usual nesting if there is only one way to do it, and say what was passed over."""
    if depth > _DEEPEST:
        raise InputError(f"checkpoint {path} nests dictionaries more than {_DEEPEST} deep: save network.state_dict()")
    if isinstance(content, nn.Module):
        return content.state_dict(), []
    if isinstance(content, dict):
        networks = [k for k, v in content.items() if isinstance(k, str) and _is_network(v)]
        if key is not None and key not in networks:
            held = f"the networks {', '.join(networks)}" if networks else "no network under a key"
            raise InputError(f"checkpoint {path} has no network {key!r}: it holds {held}")
        averages = [k for k in networks if is_average(k)]
        raw = [k for k in _NESTS if k not in averages and isinstance(content.get(k), dict | nn.Module)]
        if key is None and (len(raw) > 1 or len(averages) > 1):
            raise InputError(
                f"checkpoint {path} holds several networks ({', '.join([*raw, *averages])}): say which, for instance "
                f"with --checkpoint-key {raw[0] if raw else averages[0]}, or save the one you mean alone"
            )
        if chosen := key or next(iter([*averages, *raw]), None):
            state, notes = _plain_state(content[chosen], path, depth=depth + 1)
            if key is None and averages and raw:
                notes = [
                    f"{path} holds the weights ({raw[0]}) and their average ({averages[0]}): the average is taken "
                    f"(--checkpoint-key {raw[0]} takes the others)",
                    *notes,
                ]
            return state, notes
    return _flat_state(content, path)


def _whole(content: Any, key: str | None) -> nn.Module | None:
    """The pickled module that a file's content is, or holds under a key or as its only one."""
    if isinstance(content, nn.Module):
        return content
    modules = [v for k, v in content.items() if isinstance(v, nn.Module) and key in (None, k)]
    return modules[0] if len(modules) == 1 else None


def _is_network(value: Any, depth: int = 0) -> bool:
    """Whether a value is a network's state or a wrapper around one. Nesting too deep to tell counts as one."""
    if isinstance(value, dict):
        inner = [v for k, v in value.items() if isinstance(k, str)]
        if any(isinstance(v, Tensor) for v in inner) or depth > _DEEPEST:
            return True
        return any(isinstance(v, dict) and _is_network(v, depth + 1) for v in inner)
    return isinstance(value, nn.Module)


def _flat_state(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """A state itself, without the plain numbers and texts that people keep next to its tensors."""
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"checkpoint {path} holds {type(content).__name__}, not a state_dict of tensors: save network.state_dict()"
        )
    plain = [k for k, v in content.items() if v is None or isinstance(v, bool | int | float | str)]
    others = [k for k, v in content.items() if k not in plain and not (isinstance(k, str) and isinstance(v, Tensor))]
    tensors = [k for k in content if k not in plain and k not in others]
    if others or not tensors:
        found = {k: content[k] for k in ((others or plain) if tensors else content)}
        held = ", ".join(k[:80] if isinstance(k, str) else shown(k) for k in list(found)[:5])
        networks = [k for k, v in found.items() if isinstance(k, str) and _is_network(v)]
        advice = f"say which network with --checkpoint-key {networks[0]}, or " if networks else ""
        what = f"keys that are no tensors ({held})" if tensors else f"the keys {held}"
        raise InputError(
            f"checkpoint {path} holds {what}, not a state_dict of tensors: {advice}save network.state_dict()"
        )
    check_dense({k: content[k] for k in tensors}, path)
    if not plain:
        return content, []
    state: Any = OrderedDict((k, content[k]) for k in tensors)
    if (versions := getattr(content, "_metadata", None)) is not None:
        state._metadata = versions
    return state, [f"{path} holds more than tensors, passed over: {', '.join(plain[:5])}"]


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over a network's tensors, for networks that came from no file."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
