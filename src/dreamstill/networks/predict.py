"""Logits of many images, in pieces and in eval mode."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dreamstill.networks.pixels import to_float


@torch.inference_mode()
def predict(network: nn.Module, pixels: Tensor, batch_size: int = 512) -> Tensor:
    """Logits (float32 ``n k``, on the CPU) of images in eval mode; the mode is put back.

    ``pixels``: ``n c h w``, uint8 as stored, or floating point in nominal [0, 1].
    """
    # A quantised network, for instance, has no parameters: then its buffers say device and type.
    tensors = (*network.parameters(), *network.buffers(), torch.zeros(()))
    at = next(t for t in tensors if t.is_floating_point())
    modes = {m: m.training for m in network.modules()}  # one per module: a part may be frozen in eval mode
    network.eval()
    try:
        return torch.cat(
            [network(_floating(b.to(at.device), at.dtype)).float().cpu() for b in _batches(pixels, batch_size)]
        )
    finally:
        for module, training in modes.items():
            module.training = training


def _floating(images: Tensor, dtype: torch.dtype) -> Tensor:
    return to_float(images, dtype) if images.dtype == torch.uint8 else images.to(dtype)


def _batches(pixels: Tensor, size: int) -> Iterator[Tensor]:
    return iter(pixels.split(size))
