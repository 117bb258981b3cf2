"""Vectors of the classes from a file: what some text encoder made of their names, say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamstill.errors import InputError


def read_class_vectors(path: str, classes: int) -> Tensor:
    """One vector a class (``classes d``, float32), in the order of the classes.

    Args:
        path: a ``.npy`` file, or a ``.safetensors`` file with one tensor.
        classes: how many rows it must have.

    Raises:
        InputError: it cannot be read, or holds something else; says what was expected.
    """
    wanted = f"expected a .npy file, or a .safetensors file with one tensor, of {classes} rows, one a class"
    try:
        vectors = _read(Path(path))
    except Exception as error:  # whatever a broken file makes its reader raise
        raise InputError(f"the class vectors {path} cannot be read ({error}): {wanted}") from error
    if vectors.dim() != 2 or len(vectors) != classes or not vectors.is_floating_point() or vectors.shape[1] < 1:
        found = f"{str(vectors.dtype).removeprefix('torch.')} of shape {tuple(vectors.shape)}"
        raise InputError(f"the class vectors {path} are {found}: {wanted}, of floating-point numbers")
    if not vectors.isfinite().all():
        raise InputError(f"the class vectors {path} hold infinite values or NaN: {wanted}")
    return vectors.float()


def _read(path: Path) -> Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    from safetensors.torch import load_file

    tensors = load_file(path)
    if len(tensors) != 1:
        raise ValueError(f"it holds {len(tensors)} tensors")
    return next(iter(tensors.values()))
