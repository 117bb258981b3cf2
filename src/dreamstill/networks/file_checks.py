"""Checks of what a weights file says and holds: types, finite values, sizes, checksums."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dreamstill.errors import InputError

SUM = "sha256"  # the key of a description's checksum, which covers the rest of it and the tensors

# ---------------------------------------------------------------- the description in a file


def check_description(description: Mapping[str, Any], path: Path) -> None:
    """Check the types and ranges of what a file says about its network.

    Raises:
        InputError: a value is wrong; names the first.
    """
    for key, (good, expected) in _EXPECTED.items():
        value = description.get(key)
        if value is not None and not good(value):
            raise InputError(
                f"{path} says its {key} is {shown(value)}, expected {expected}. Fetch the file again, or give bare "
                "weights and state these facts yourself"
            )


def shown(value: Any) -> str:
    """A value from a file, shortened for a message."""
    if not isinstance(value, str | int | float | list | dict | None):
        return f"a {type(value).__name__}"  # its repr may take forever
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_list(value: Any, of: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(of, value))


_EXPECTED: dict[str, tuple[Any, str]] = {
    "name": (lambda v: isinstance(v, str), "a text"),
    "kwargs": (lambda v: isinstance(v, dict), "arguments by their names"),
    "num_classes": (lambda v: _is_int(v) and v >= 2, "a whole number of at least 2"),
    "channels": (lambda v: _is_int(v) and v >= 1, "a whole number of at least 1"),
    "image_size": (
        lambda v: (_is_int(v) and v >= 1) or (_is_list(v, lambda s: _is_int(s) and s >= 1) and len(v) == 2),
        "one side of at least 1 pixel, or [height, width]",
    ),
    "mean": (lambda v: _is_list(v, _is_number), "a list of finite numbers"),
    "std": (lambda v: _is_list(v, lambda s: _is_number(s) and s > 0), "a list of finite positive numbers"),
    SUM: (lambda v: isinstance(v, str), "a SHA-256"),
}


def summed(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description without its own checksum, and of names, types, shapes and values of all tensors."""
    rest = {k: v for k, v in description.items() if k != SUM}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_sum(description: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> None:
    """Compare a file with its own checksum. Files of other programs and of earlier versions have none.

    Raises:
        InputError: they differ.
    """
    if SUM in description and summed(description, state) != description[SUM]:
        raise InputError(f"checkpoint {path} is damaged, its content does not match its own SHA-256: fetch it again")


# ---------------------------------------------------------------- the tensors


def check_unpacked_size(path: Path) -> None:
    """Make sure that an archive is about as large in memory as on disk: torch.save does not compress.

    Raises:
        InputError: it is much larger in memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile):  # not an archive, or a damaged one: the next reader says so
        return
    if unpacked > 2 * path.stat().st_size + (1 << 20):
        raise InputError(
            f"checkpoint {path} would unpack to {unpacked:,} bytes, many times its size. torch.save does not compress, "
            "so do not trust this file"
        )


def check_dense(state: Mapping[str, Tensor], path: Path) -> None:
    """Make sure that every tensor is dense and has values.

    Raises:
        InputError: a tensor is sparse, quantised, nested or without values; names the first.
    """
    for key, tensor in state.items():
        kind = (
            "a quantised tensor" if tensor.is_quantized
            else "a tensor of the device meta, which has no values" if tensor.is_meta
            else "a nested tensor" if tensor.is_nested
            else f"a tensor of the layout {tensor.layout}" if tensor.layout != torch.strided
            else ""
        )  # fmt: skip
        if kind:
            raise InputError(
                f"checkpoint {path} holds {shown(key)} as {kind}: save the state_dict() of the network with dense "
                "tensors of floating-point numbers"
            )


def miscast(ours: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Tensors whose type loading would change silently: complex, integer and boolean weights."""
    found = []
    for key, tensor in ours.items():
        if key not in state:
            continue
        theirs = state[key].dtype
        if tensor.is_floating_point():
            same = theirs.is_floating_point
        elif theirs.is_floating_point:  # a counter that was cast together with the weights
            same = not tensor.is_complex() and bool((state[key] == state[key].round()).all())
        else:
            same = theirs.is_complex == tensor.is_complex() and (theirs == torch.bool) == (tensor.dtype == torch.bool)
        if not same:
            kinds = [str(t).removeprefix("torch.") for t in (theirs, tensor.dtype)]
            found.append(f"{key} is {kinds[0]} in the file and {kinds[1]} in the network")
    return found


def not_finite(module: nn.Module) -> list[str]:
    """Names of weights and batch-norm statistics with NaN or infinite values. Other buffers (masks) may have them."""
    tensors: dict[str, Tensor] = dict(module.named_parameters())
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            tensors |= {f"{name}.{key}" if name else key: value for key, value in layer.named_buffers(recurse=False)}
    return [key for key, value in tensors.items() if not bool(value.isfinite().all())]


def values(module: nn.Module) -> int:
    """How many numbers a network's state has."""
    return sum(t.numel() for t in module.state_dict().values())


def refuse_larger(build: Callable[[], nn.Module], what: str, state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a small file that asks for a network large enough to fill the memory.

    Raises:
        InputError: ``build`` makes a network with far more values than the file holds; ``what`` names it.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            asked = values(build())
    except InputError:  # with real tensors it may succeed, and if not, it says the same
        return
    held = sum(t.numel() for t in state.values())
    if asked > 10 * held + 1_000_000:
        raise InputError(
            f"{path} holds {held:,} values and {what} would have {asked:,}: give the file that belongs to it, or other "
            "arguments"
        )
