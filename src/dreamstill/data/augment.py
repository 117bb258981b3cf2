"""Crop, flip and other changes, random for each image, as a few tensor operations on the whole batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.profiler import record_function


def crop_flip(
    images: Tensor,
    shift: Tensor,
    flip: Tensor | None,
    pad: int,
    fill: float = 0,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Pad by ``pad``, crop back to size at each image's own offset, mirror if asked.

    Args:
        images: ``b c h w`` in [0, 1]. Differentiable with respect to them.
        shift: ``b 2`` integers in [0, 2 pad]: row and column where the crop starts; ``pad`` is no shift.
        flip: ``b`` booleans, or None.
        pad: pixels, >= 0.
        fill: the value of the padding.
        size: of the crop, at most the images' own, which is the default. A smaller crop has larger shifts
            (:func:`starts`).
    """
    with record_function("augmentation"):
        return _crop_flip(images, shift, flip, pad, fill, size or (images.shape[2], images.shape[3]))


def starts(
    integers: Callable[..., Tensor], b: int, pad: int, image: Sequence[int], size: tuple[int, int] | None = None
) -> Tensor:
    """Where the crops of :func:`crop_flip` start (``b 2`` integers), drawn evenly from all places.

    Args:
        integers: draws ``(high, b, n)``, the engine's.
        b: number of images.
        pad: pixels, >= 0.
        image: the images' shape, which ends with h and w.
        size: of the crop; by default the images' own.
    """
    h, w = size or (image[-2], image[-1])
    if (h, w) == (image[-2], image[-1]):
        return integers(2 * pad + 1, b, 2)
    return torch.cat([integers(2 * pad + room + 1, b, 1) for room in (image[-2] - h, image[-1] - w)], dim=1)


def roll_flip(images: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Roll each image by its own shift, so that what leaves on one side enters on the other, and mirror if asked.

    Args:
        images: ``b c h w``. Differentiable with respect to them.
        shift: ``b 2`` integers: rows and columns, of either sign.
        flip: ``b`` booleans.
    """
    b, _, h, w = images.shape
    rows = (torch.arange(h, device=images.device) - shift[:, :1]) % h
    columns = (torch.arange(w, device=images.device) - shift[:, 1:]) % w
    columns = torch.where(flip[:, None], w - 1 - columns, columns)
    batch = torch.arange(b, device=images.device)[:, None, None]
    return images[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _crop_flip(
    images: Tensor, shift: Tensor, flip: Tensor | None, pad: int, fill: float, size: tuple[int, int]
) -> Tensor:
    b, (h, w) = len(images), size
    padded = torch.nn.functional.pad(images, [pad] * 4, value=fill)
    rows = shift[:, :1] + torch.arange(h, device=images.device)
    columns = torch.arange(w, device=images.device).expand(b, w)
    if flip is not None:
        columns = torch.where(flip[:, None], w - 1 - columns, columns)
    columns = shift[:, 1:] + columns
    batch = torch.arange(b, device=images.device)[:, None, None]
    # Advanced indices around the slice put the channels last; this is also the fast memory format.
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resized_crop(
    images: Tensor, uniform: Tensor, flip: Tensor | None, scale: float = 0.08, ratio: float = 4 / 3
) -> Tensor:
    """A random rectangle of each image, scaled back to full size (bilinear), mirrored if asked.

    The share of the area is uniform in [scale, 1], the logarithm of width to height in [-ln ratio, ln ratio]. A
    rectangle that does not fit is cut to the image; torchvision draws again.

    Args:
        images: ``b c h w`` in [0, 1].
        uniform: ``b 4`` in [0, 1): area, shape, row and column.
        flip: ``b`` booleans, or None.
        scale: least share of the area.
        ratio: largest ratio of the sides, >= 1.
    """
    return resized_crops([(images, "bilinear")], uniform, flip, scale, ratio)[0]


def resized_crops(
    layers: Sequence[tuple[Tensor, Literal["bilinear", "nearest"]]],
    uniform: Tensor,
    flip: Tensor | None,
    scale: float = 0.08,
    ratio: float = 4 / 3,
) -> list[Tensor]:
    """The same rectangles of several layers, an image and its labels for instance, each with its own interpolation.

    Args:
        layers: ``b c h w``, all of one h and w, floating point.
        uniform: as in :func:`resized_crop`, like the rest.
        flip: ``b`` booleans, or None.
        scale: least share of the area.
        ratio: largest ratio of the sides, >= 1.
    """
    with record_function("augmentation"):
        area = scale + (1 - scale) * uniform[:, 0]
        shape = ((2 * uniform[:, 1] - 1) * math.log(ratio)).exp()
        width, height = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
        # The centre, in a picture whose sides run from -1 to 1.
        x = (1 - width) * (2 * uniform[:, 3] - 1)
        y = (1 - height) * (2 * uniform[:, 2] - 1)
        if flip is not None:
            width = torch.where(flip, -width, width)
        nothing = torch.zeros_like(x)
        rows = torch.stack([width, nothing, x, nothing, height, y], dim=1).view(-1, 2, 3)
        grid = torch.nn.functional.affine_grid(rows, list(layers[0][0].shape), align_corners=False)
        return [
            torch.nn.functional.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=False)
            for x, mode in layers
        ]


def warp(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Turn, stretch and shear each image about its centre by its own draw (bilinear; edge pixels are repeated).

    Args:
        images: ``b c h w``. Differentiable with respect to them.
        uniform: ``b 4`` in [0, 1): turn, width, height and shear; 0.5 is none.
        strength: 0 is none; at 1 the turn is up to 15 degrees, each side changes by up to 15 %, the shear is up to 0.2.
    """
    with record_function("augmentation"):
        drawn = (2 * uniform - 1) * strength
        turn, shear = drawn[:, 0] * math.radians(15), drawn[:, 3] * 0.2
        width, height = 1 + 0.15 * drawn[:, 1], 1 + 0.15 * drawn[:, 2]
        # The grid's sides run from -1 to 1 whatever the picture's are, so a turn needs their ratio.
        ratio = images.shape[3] / images.shape[2]
        nothing = torch.zeros_like(turn)
        across = torch.stack([turn.cos() * width, (shear - turn.sin()) / ratio, nothing], dim=1)
        down = torch.stack([turn.sin() * ratio, turn.cos() * height, nothing], dim=1)
        grid = torch.nn.functional.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
        return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def relight(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Change brightness and contrast of each image, and keep it in [0, 1].

    Args:
        images: ``b c h w`` in [0, 1].
        uniform: ``b 2`` in [0, 1): brightness and contrast.
        strength: 0 to 1. Brightness is shifted by up to half of it, contrast is multiplied by up to 1 -+ it.
    """
    with record_function("augmentation"):
        drawn = (2 * uniform - 1) * strength
        mean = images.mean((1, 2, 3), keepdim=True)
        contrast = 1 + drawn[:, 1, None, None, None]
        return ((images - mean) * contrast + mean + drawn[:, 0, None, None, None] / 2).clamp(0, 1)
