"""Pixels as bytes and as numbers in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Quantise images in [0, 1] (any shape) to uint8, clipping what is outside."""
    return images.detach().mul(255.0).round_().clamp_(0, 255).to(torch.uint8)


def to_float(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels back to [0, 1]."""
    return pixels.to(dtype).div_(255.0)
