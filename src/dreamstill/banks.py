"""The image bank: synthetic images kept for replay, as uint8, on the device, in the checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.profiler import record_function


def to_uint8(images: Tensor) -> Tensor:
    """Quantise images in [0, 1] (any shape) to uint8, clipping what is outside."""
    return images.detach().mul(255.0).round_().clamp_(0, 255).to(torch.uint8)


def to_float(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels back to [0, 1]."""
    return pixels.to(dtype).div_(255.0)


class ImageBank(nn.Module):
    """A ring buffer of ``capacity`` images (uint8 ``c h w``) with one integer label each.

    How many images were ever added is known on the host, so that drawing from the bank never waits for the
    device. Images outside [0, 1] are clipped; ``clipped_share`` says how many of their values were.
    """

    pixels: Tensor
    labels: Tensor
    clipped: Tensor

    def __init__(self, capacity: int, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}: expected at least 1")
        self.capacity = capacity
        self.added = 0
        self.register_buffer("pixels", torch.zeros(capacity, channels, *image_size, dtype=torch.uint8))
        self.register_buffer("labels", torch.full((capacity,), -1, dtype=torch.int64))
        self.register_buffer("clipped", torch.zeros((), dtype=torch.float64))

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @torch.no_grad()
    def add(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Store images in [0, 1] (``b c h w``, ``b <= capacity``), over the oldest ones when full."""
        b = len(images)
        if b > self.capacity:
            raise ValueError(f"{b} images do not fit into a bank of {self.capacity}")
        self.clipped += ((images < 0) | (images > 1)).double().mean() * b
        with record_function("bank"):
            self._store(to_uint8(images), labels)

    def _store(self, pixels: Tensor, labels: Tensor | None) -> None:
        b = len(pixels)
        start = self.added % self.capacity
        first = min(b, self.capacity - start)
        for source, target in ((slice(0, first), slice(start, start + first)), (slice(first, b), slice(0, b - first))):
            self.pixels[target] = pixels[source]
            if labels is not None:
                self.labels[target] = labels[source]
        self.added += b

    def draw(self, index: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] (``b c h w``) and labels (``b``; -1 where none was given) at ``index`` (``b``)."""
        with record_function("bank"):
            return to_float(self.pixels[index], dtype), self.labels[index]

    @property
    def clipped_share(self) -> float:
        """Share of all stored values that lay outside [0, 1] and were clipped."""
        return float(self.clipped) / max(self.added, 1)

    def rows(self, since: int) -> tuple[int, Tensor, Tensor]:
        """What was added since there were ``since`` and is still there: (number of the first, pixels, labels)."""
        start = max(since, self.added - self.capacity, 0)
        index = torch.arange(start, self.added) % self.capacity
        index = index.to(self.pixels.device)
        return start, self.pixels[index].cpu(), self.labels[index].cpu()

    def restore(self, start: int, pixels: Tensor, labels: Tensor) -> None:
        """Put back rows saved by :meth:`rows`; the caller sets ``added`` when all are back."""
        index = (torch.arange(start, start + len(pixels)) % self.capacity).to(self.pixels.device)
        self.pixels[index] = pixels.to(self.pixels.device)
        self.labels[index] = labels.to(self.labels.device)
