"""The image bank: synthetic images kept for replay, as uint8, on the device, in the checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from dreamstill.data import storage
from dreamstill.errors import InputError
from dreamstill.networks.pixels import to_float, to_uint8

_COLUMNS = ("pixels", "labels", "logits")


class Stored(NamedTuple):
    """Some images of a bank, with their labels and logits."""

    images: Tensor  # ``b c h w`` in nominal [0, 1], exactly so without a margin
    labels: Tensor  # int64 ``b``; -1 if none was given
    logits: Tensor  # ``b k``; ``b 0`` in a bank without logits


class ImageBank(nn.Module):
    """A ring buffer of ``capacity`` images (uint8 ``c h w``) with one integer label and ``k`` logits each.

    The logits belong to exactly the image stored: whoever crops or mirrors it has to ask the network again. They are
    kept as float16, whose rounding (1/2048 of the value) is below that of the image to uint8. Large columns
    (:mod:`dreamstill.data.storage`) lie in files in ``folder`` and stay on the host.

    The host knows how many images were ever added, so drawing from the bank never waits for the device. Values
    outside [-margin, 1 + margin] are clipped; ``clipped_share`` says how many were. A margin makes the 256 steps that
    much coarser. In return an image that goes beyond black and white, as generators' images do, still matches its
    logits.
    """

    pixels: Tensor
    labels: Tensor
    logits: Tensor
    clipped: Tensor

    def __init__(
        self,
        capacity: int,
        channels: int,
        image_size: tuple[int, int],
        k: int = 0,
        margin: float = 0.0,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}: expected at least 1")
        self.capacity = capacity
        self.margin = margin
        self.added = 0
        folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._column("pixels", (capacity, channels, *image_size), torch.uint8, folder)
        self._column("labels", (capacity,), torch.int64, folder)
        self.labels.fill_(-1)
        self._column("logits", (capacity, k), torch.float16, folder)
        self.register_buffer("clipped", torch.zeros((), dtype=torch.float64))

    def _column(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, folder: Path) -> None:
        column = storage.room(shape, dtype, folder)
        if storage.is_large(shape, dtype):
            setattr(self, name, column)  # not a buffer: it must not follow the module to its device
        else:
            self.register_buffer(name, column)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @torch.no_grad()
    def add(self, images: Tensor, labels: Tensor | None = None, logits: Tensor | None = None) -> None:
        """Store images, nominal [0, 1] (``b c h w``, ``b <= capacity``), over the oldest ones when full."""
        b = len(images)
        if b > self.capacity:
            raise InputError(f"{b} images do not fit into a bank of {self.capacity}: raise bank, or lower batch_size")
        if self.margin:
            images = (images + self.margin) / (1 + 2 * self.margin)
        self.clipped += ((images < 0) | (images > 1)).double().mean() * b
        with record_function("bank"):
            self._store(to_uint8(images), labels, logits)

    def _store(self, pixels: Tensor, labels: Tensor | None, logits: Tensor | None) -> None:
        b = len(pixels)
        start = self.added % self.capacity
        first = min(b, self.capacity - start)
        for source, target in ((slice(0, first), slice(start, start + first)), (slice(first, b), slice(0, b - first))):
            self.pixels[target] = pixels[source]
            if labels is not None:
                self.labels[target] = labels[source]
            if logits is not None:
                self.logits[target] = logits[source].half()
        self.added += b

    def draw(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Stored:
        """What is stored at ``index`` (``b``)."""
        with record_function("bank"):
            images = to_float(storage.rows(self.pixels, index), dtype)
            if self.margin:
                images = images * (1 + 2 * self.margin) - self.margin
            return Stored(images, storage.rows(self.labels, index), storage.rows(self.logits, index).to(dtype))

    @property
    def clipped_share(self) -> float:
        """Share of all stored values that lay outside [0, 1] and its margin and were clipped."""
        return float(self.clipped) / max(self.added, 1)

    @property
    def row_bytes(self) -> int:
        """Memory of one image with its label and logits."""
        return sum(column[0].nbytes for column in (self.pixels, self.labels, self.logits))

    def rows(self, since: int, until: int | None = None) -> tuple[int, dict[str, Tensor]]:
        """The images from number ``since`` on that are still there: number of the first, and all columns.

        ``until``: the number to stop before.
        """
        start = max(since, self.added - self.capacity, 0)
        index = torch.arange(start, self.added if until is None else until) % self.capacity
        return start, {name: storage.rows(getattr(self, name), index) for name in _COLUMNS}

    def restore(self, start: int, rows: Mapping[str, Tensor]) -> None:
        """Put back rows saved by :meth:`rows`; the caller sets ``added`` when all are back."""
        index = torch.arange(start, start + len(rows["pixels"])) % self.capacity
        for name in _COLUMNS:
            column = getattr(self, name)
            column[index.to(column.device)] = rows[name].to(column.device)
