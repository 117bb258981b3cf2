"""The kind of a weights file, found from its bytes and not from its name."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Literal

from dreamstill.errors import InputError

FileKind = Literal["torch", "safetensors", "torchscript", "exported", "onnx"]

PROGRAMS = {"torchscript": "a TorchScript program", "exported": "an exported program (.pt2)", "onnx": "an ONNX model"}


def file_kind(path: Path) -> FileKind:
    """Which reader a file needs. ``torch.load`` gets every file that is not recognised.

    Raises:
        InputError: the file is an archive of other files, or of another framework; says which.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start[:2] == b"PK":
        return _of_zip(path)
    if path.suffix == ".safetensors" or _is_safetensors(path, start):
        return "safetensors"
    # ONNX: field 1, the version of the format, is a small number. The producer or the graph follows.
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] in b"\x12\x1a\x22\x3a"):
        return "onnx"
    if start[:2] == b"\x1f\x8b":
        raise InputError(f"checkpoint {path} is compressed by gzip: unpack it and give the file in it")
    if start[:4] == b"\x89HDF":
        raise InputError(
            f"checkpoint {path} is an HDF5 file, as Keras writes, expected weights of PyTorch: convert it first"
        )
    if start[:1] != b"\x80" and tarfile.is_tarfile(path):
        _of_tar(path)
    return "torch"


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Such a file begins with the length of a JSON text in eight bytes, and then the text."""
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and 2 <= length <= path.stat().st_size - 8


def _of_zip(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):  # cut short: torch.load says so
        return "torch"
    inner = {name.partition("/")[2] or name for name in names}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    if any(name.startswith("models/") or name == "serialized_exported_program.json" for name in (*inner, *names)):
        return "exported"
    if "data.pkl" in inner:
        return "torch"
    raise InputError(
        f"checkpoint {path} is a zip archive of other files ({', '.join(names[:3])}): unpack it and give the "
        "checkpoint in it"
    )


def _of_tar(path: Path) -> None:
    with tarfile.open(path) as archive:
        names = archive.getnames()
    if {"sys_info", "pickle", "storages", "tensors"} <= {Path(name).name for name in names}:
        raise InputError(
            f"checkpoint {path} is in the .tar format of PyTorch before 0.1.10, and reading that would execute code "
            "from the file. Load it with torch.load, and save its state_dict() with torch.save"
        )
    raise InputError(
        f"checkpoint {path} is a tar archive of other files ({', '.join(names[:3])}): unpack it and give the "
        "checkpoint in it"
    )
