"""State dicts out of files and into networks: nothing is executed by loading a file, and what does not fit is named."""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dreamstill.errors import InputError, first_line
from dreamstill.networks.file_checks import (
    check_dense,
    check_description,
    check_sum,
    check_unpacked_size,
    miscast,
    shown,
)

NETWORK_SCHEMA = 1
_NESTS = ("state_dict", "model_state_dict", "model", "net", "network")
_DEEPEST = 10  # nests: a dictionary may hold itself
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_state(path: Path, *, unsafe: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a checkpoint, and its own description if dreamstill wrote it (else empty).

    Args:
        path: ``.safetensors``, or anything ``torch.load`` reads.
        unsafe: load pickled objects too, which runs whatever code the file holds.

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
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _plain_state(_load_torch(path, unsafe), path), {}


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
            f"checkpoint {path} is not a readable checkpoint: fetch it again, or save the network's state_dict() by "
            "torch.save"
        ) from error
    except Exception as error:  # damaged bytes fail in a dozen ways: IndexError, struct.error, AssertionError, ...
        if unsafe and isinstance(error, AttributeError | ImportError):
            raise InputError(
                f"checkpoint {path} needs code that is not here ({first_line(error)}): make it importable, or save "
                "the state_dict() where it is"
            ) from error
        # What an unpickler stumbles over in damaged bytes ("pop from empty list") tells nobody anything.
        said = "" if isinstance(error, IndexError | KeyError | AttributeError) else f" ({first_line(error)})"
        raise InputError(f"checkpoint {path} is corrupt or cut short{said}: fetch it again") from error


def _would_execute(path: Path, what: str) -> str:
    return (
        f"checkpoint {path} holds pickled Python objects ({what}), and loading them would execute code from the file: "
        "save its state_dict() instead, or pass --unsafe-load if you trust whoever made it"
    )


def _called_by(path: Path) -> str | None:
    """The first class or function that a bare pickle imports, without loading it; None of what torch.save wrote."""
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
    except Exception:  # no pickle, or a damaged one: what reads it next says so
        return None
    return found


def _plain_state(content: Any, path: Path) -> dict[str, Tensor]:
    """Unwrap the usual nests, when there is only one way to."""
    for _ in range(_DEEPEST):
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, dict):
            break
        nests = [k for k in _NESTS if isinstance(content.get(k), dict | nn.Module)]
        if len(nests) > 1:
            raise InputError(
                f"checkpoint {path} holds several networks ({', '.join(nests)}): save the one you mean alone"
            )
        if not nests:
            break
        content = content[nests[0]]
    else:
        raise InputError(
            f"checkpoint {path} has dictionaries in dictionaries, more than {_DEEPEST} deep: save network.state_dict()"
        )
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        kind = (
            f"the keys {', '.join(k[:80] if isinstance(k, str) else shown(k) for k in list(content)[:5])}"
            if isinstance(content, dict)
            else type(content).__name__
        )
        raise InputError(f"checkpoint {path} holds {kind}, not a state_dict of tensors: save network.state_dict()")
    check_dense(content, path)
    return content


def apply_state(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state strictly, but for what a wrapper put before all of its keys.

    Raises:
        InputError: keys or shapes differ; names them.
    """
    ours = module.state_dict()
    state = _unwrapped(state, ours)
    missing, unexpected = [k for k in ours if k not in state], [k for k in state if k not in ours]
    shapes = [k for k in ours if k in state and ours[k].shape != state[k].shape]
    problems = [
        f"{len(keys)} {what} ({', '.join(k[:80] for k in keys[:5])}{', ...' if len(keys) > 5 else ''})"
        for what, keys in (("missing keys", missing), ("unknown keys", unexpected))
        if keys
    ]
    problems += [
        f"{k} is {tuple(state[k].shape)} in the file and {tuple(ours[k].shape)} in the network" for k in shapes[:5]
    ]
    if problems:
        hint = _shape_hint(ours, state, shapes) if not missing and not unexpected else ""
        if not shapes and all(k.startswith("aux_classifier.") for k in (*missing, *unexpected)):
            hint = f": {'leave out' if missing else 'give'} aux_loss: true in the network's arguments"
        raise InputError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems)}{hint}")
    if cast := miscast(ours, state):
        raise InputError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(cast[:5])}: loading would change what they "
            "say, so save weights of floating-point numbers"
        )
    module.load_state_dict(state)


def _unwrapped(state: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes of DDP, ``torch.compile`` and the like, in any order, until a key is one of ours.

    Not sooner: a network may itself have all its layers under ``model.``.
    """
    while state and not state.keys() & ours.keys():
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _shape_hint(ours: dict[str, Tensor], state: dict[str, Tensor], shapes: list[str]) -> str:
    first = next((k for k in ours if ours[k].dim() == 4), None)
    # What gives the logits: the last linear layer, or the one layer, a segmentation head, whose outputs alone differ.
    last = [k for k in ours if ours[k].dim() == 2][-1:] or [k for k in shapes if ours[k].dim() == 4 and k != first][-1:]
    if (
        last
        and set(shapes) <= {last[0], last[0].replace("weight", "bias")}
        and len(state[last[0]]) != len(ours[last[0]])
        and state[last[0]].shape[1:] == ours[last[0]].shape[1:]
    ):
        return f": the file has {len(state[last[0]])} classes, so set num_classes to that"
    if first is not None and shapes == [first] and state[first].shape[1:2] != ours[first].shape[1:2]:
        return f": the file takes {state[first].shape[1]} channels, so set channels to that"
    return ": it may be another width of the same network"


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
