"""Turn encoded images into uint8 tensors: decode, resize, stack, and keep them in a cache folder."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamstill.errors import InputError
from dreamstill.files import cache_folder


def decode_all(
    images: Iterable[tuple[str, bytes]], source: str, size: tuple[int, int] | None, channels: int | None
) -> Iterator[np.ndarray]:
    """Pictures as :func:`fit` makes them, from names and files. By default the first one gives size and channels.

    Raises:
        InputError: some cannot be read; raised after all the others were given.
    """
    bad: list[str] = []
    for name, data in images:
        picture = decode(data)
        if picture is None:
            bad.append(name)
            continue
        channels = channels or (1 if picture.mode in ("L", "1", "I") or picture.mode.startswith("I;16") else 3)
        size = size or (picture.height, picture.width)
        yield fit(picture, size, channels)
    if bad:
        raise InputError(
            f"{len(bad)} images of {source} cannot be read, first {', '.join(bad[:5])}: remove or mend them"
        )


def decode(data: bytes) -> Image.Image | None:
    """The picture in an encoded image file, or None when it cannot be read."""
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Exception:  # Pillow meets damaged bytes with OSError, SyntaxError, DecompressionBombError, ...
        return None
    # In floating point, or in more than 16 bits, the file does not say what is black and what is white.
    unscaled = picture.mode == "F" or (picture.mode == "I" and int(np.asarray(picture).max()) > 65535)
    return None if unscaled else picture


def fit(picture: Image.Image, size: tuple[int, int], channels: int) -> np.ndarray:
    """A picture as uint8 ``c h w``: converted, and padded (28 to 32) or resized and cropped.

    See :func:`dreamstill.data.load.load_images` for the rules.
    """
    if channels not in (1, 3):
        raise InputError(f"images are read with 1 or 3 channels, not {channels}")
    if picture.mode == "I" or picture.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 of 65535
        picture = Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if padded(picture, size):
        array = np.pad(np.asarray(picture), [(2, 2), (2, 2)] + [(0, 0)] * (channels == 3))
    else:
        if (picture.height, picture.width) != size:
            scaled, box = scaled_box(picture.width, picture.height, size)
            picture = picture.resize(scaled, Image.Resampling.BILINEAR).crop(box)
        array = np.asarray(picture)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def padded(picture: Image.Image, size: tuple[int, int]) -> bool:
    """Whether a picture gets ``size`` by padding, two pixels on each side, and not by scaling."""
    return (picture.height, picture.width) == (28, 28) and size == (32, 32)


def scaled_box(width: int, height: int, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Width and height of a picture scaled to cover ``size`` (h, w), and the box in its centre that is kept."""
    h, w = size
    scale = max(h / height, w / width)
    wide, high = max(w, round(width * scale)), max(h, round(height * scale))
    left, top = (wide - w) // 2, (high - h) // 2
    return (wide, high), (left, top, left + w, top + h)


def stack(arrays: Iterable[np.ndarray], count: int) -> Tensor:
    """Fill one tensor as the images come, so that memory never holds a second copy of the set."""
    out: Tensor | None = None
    filled = 0
    for array in arrays:
        if out is None:
            try:
                out = torch.empty((count, *array.shape), dtype=torch.uint8)
            except RuntimeError as error:
                size = " x ".join(map(str, array.shape))
                raise InputError(
                    f"{count:,} images of {size} (c h w) do not fit into memory: give a smaller image size, or a limit"
                ) from error
        if filled < count:
            out[filled] = torch.from_numpy(array.copy())
        filled += 1
    if out is None:
        raise InputError("the set is empty")
    if filled != count:  # do not trust a file's own count: rows that are not filled hold arbitrary values
        raise InputError(f"the set says that it has {count:,} images, and {filled:,} were found: fetch it again")
    return out


def cached(key: Any, make: Callable[[], Tensor]) -> Tensor:
    """``make()``, or its earlier result from the cache folder. An unusable cache is not an error."""
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
    folder = cache_folder()
    path = folder / f"{digest}.npy"
    try:
        return torch.from_numpy(np.load(path))
    except (OSError, ValueError, EOFError):
        pixels = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{digest}.{os.getpid()}.npy")
        try:
            np.save(scratch, pixels.numpy())
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError:
        pass
    return pixels
