"""Synthetic images of a finished run: those that lie in its folder, or else made anew."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamstill.data.load import load_images
from dreamstill.errors import InputError, first_line
from dreamstill.networks.pixels import to_uint8
from dreamstill.runs.restored import restored

_MOST_READ = 10_000


def run_images(
    folder: Path, n: int, seed: int = 0, unsafe_load: bool = False, trust_code: bool = False
) -> tuple[Tensor, str]:
    """``n`` synthetic images (uint8 ``n c h w``), or as many as were stored, and where they are from.

    Args:
        folder: of the run.
        n: how many are wanted.
        seed: of which are taken, or of their noise.
        unsafe_load: load pickles too, if they must be made.
        trust_code: import the code that the run names, if they must be made.

    Raises:
        InputError: what is stored cannot be read, or the run cannot be taken up again.
    """
    for name in ("transfer.parquet", "images.safetensors"):
        if (path := folder / name).is_file():
            pixels = _read(path)
            chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[:n]
            return pixels[chosen], name
    engine, method, *_ = restored(folder, seed, unsafe_load, trust_code)
    return to_uint8(method.synthesise(engine, n))[:n].cpu(), "made by the run's method"


def _read(path: Path) -> Tensor:
    if path.suffix == ".parquet":
        return load_images(str(path), limit=_MOST_READ).pixels
    try:
        return load_file(path)["pixels"]
    except Exception as error:  # safetensors has an error of its own for each way to be damaged
        raise InputError(
            f"{path} cannot be read ({first_line(error)}): remove it, or write it again with dreamstill synthesize"
        ) from error
