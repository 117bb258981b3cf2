"""Tensors of any size: small ones in memory, large ones in a file that the system pages in and out.

A bank or a transfer set of more than ``LARGE`` bytes lies in a file without a name, mapped into memory. It takes disk
and not memory, and disappears with the process, however that ends. It stays on the host; batches go to the device.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamstill.errors import InputError

LARGE = 2 << 30  # bytes


def is_large(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether a tensor of this shape is kept in a file."""
    return _bytes(shape, dtype) > LARGE


def room(shape: tuple[int, ...], dtype: torch.dtype, folder: Path) -> Tensor:
    """Zeros on the host, in a file in ``folder`` if they are large.

    Raises:
        InputError: the disk has no room for them.
    """
    if not is_large(shape, dtype):
        return torch.zeros(shape, dtype=dtype)
    size = _bytes(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserve all of it now: a mapped file that finds no room later ends the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            numbers = np.memmap(file, np.uint8, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=(size,))
    except OSError as error:
        raise InputError(
            f"{size / 1e9:.1f} GB of images and logits find no room in {folder} ({error.strerror}): free some space, "
            "choose another --out, or make fewer images"
        ) from error
    return torch.from_numpy(numbers).view(dtype).view(shape)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` on the device of the index, wherever ``x`` lies."""
    return x[index.to(x.device)].to(index.device)


def nearest(path: Path) -> Path:
    """The first folder that exists, of a path and those above it."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.is_dir())


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
