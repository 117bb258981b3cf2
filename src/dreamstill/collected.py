"""Collected images: a few real, unlabelled look-alikes that somebody gathered where the training data is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dreamstill import data, decoding
from dreamstill.banks import to_float
from dreamstill.errors import InputError

LEAST = 64
Select = Literal["confidence", "class", "random"]


@dataclass(frozen=True)
class Collected:
    """Collected images (uint8 ``n c h w``), and which files were left out or changed on the way.

    Attributes:
        pixels: the images, in the source's order.
        source: where they came from, as the user named it.
        unreadable: names of the files that no image could be read from; they are left out.
        resized: names of the images of another size, resized on the short side and cropped in the centre (28x28
            ones wanted at 32 are padded with zeros).
    """

    pixels: Tensor
    source: str
    unreadable: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def outside(self) -> str:
        """What goes into the run's list of outside information."""
        aside = [f"{len(names)} {what}" for names, what in self._changed() if names]
        return f"{len(self)} collected unlabelled images, {self.source}" + (f" ({'; '.join(aside)})" if aside else "")

    @property
    def notes(self) -> list[str]:
        """One sentence each on what was left out and what was resized, with the first five names."""
        return [
            f"{len(names)} of the collected images {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for names, what in self._changed()
            if names
        ]

    @property
    def sha256(self) -> str:
        """Hex digest of the pixels."""
        return hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()

    def _changed(self) -> list[tuple[tuple[str, ...], str]]:
        return [(self.unreadable, "unreadable, left out"), (self.resized, "of another size, resized")]


def load_collected(
    source: str, *, image_size: tuple[int, int], channels: int, root: str | Path | None = None
) -> Collected:
    """Read collected images; what cannot be read is left out and named. Labels and class folders are not looked at.

    Args:
        source: ``digits`` or a name under ``root``, a parquet file or folder, a folder of images at any depth, or
            ``hub:owner/name``; the split ``train`` where there are several.
        image_size: (height, width) to bring them to.
        channels: 1 makes grey, 3 repeats grey.
        root: folder that holds the named sets.

    Raises:
        InputError: nothing there, or nothing in it can be read.
    """
    if source == "digits":
        return Collected(data.load(source, "train", image_size=image_size, channels=channels).pixels, source)
    arrays: list[np.ndarray] = []
    unreadable: list[str] = []
    resized: list[str] = []
    for name, content in data.encoded(source, "train", root):
        picture = decoding.decode(content)
        if picture is None:
            unreadable.append(name)
            continue
        if (picture.height, picture.width) != image_size:
            resized.append(name)
        arrays.append(decoding.fit(picture, image_size, channels))
    if not arrays:
        raise InputError(
            f"none of the {len(unreadable)} images of {source} can be read, first {', '.join(unreadable[:5])}: give a "
            "folder or parquet file of images"
        )
    return Collected(torch.from_numpy(np.stack(arrays)), source, tuple(unreadable), tuple(resized))


def enough(collected: Collected, batch: int) -> None:
    """Refuse too few images to go on with: two batches, and at least 64.

    Raises:
        InputError: fewer are left.
    """
    least = max(LEAST, 2 * batch)
    if len(collected) < least:
        lost = f" ({len(collected.unreadable)} more cannot be read)" if collected.unreadable else ""
        raise InputError(
            f"{collected.source} has {len(collected)} usable images{lost}, expected at least {least} (two batches, "
            "and 64): collect more, or lower batch_size"
        )


@torch.no_grad()
def ranked(
    logits_of: Callable[[Tensor], Tensor], pixels: Tensor, select: Select, min_confidence: float, keep: int
) -> tuple[Tensor, Tensor]:
    """Numbers of the images to keep, the teacher's surest first (int64 ``m``), and its labels of them (``m``).

    Args:
        logits_of: from images (``b c h w``, [0, 1]) to the teacher's logits.
        pixels: uint8 ``n c h w``.
        select: ``confidence``: by the largest probability, that is by the smallest cross-entropy with the teacher's
            own arg-max; ``class``: the surest of every class first, then the second of every class, ...; ``random``: an
            order from torch's own stream.
        min_confidence: the smallest probability that is kept.
        keep: how many, at most.
    """
    logits = torch.cat([logits_of(to_float(p)) for p in pixels.split(256)])
    sure, labels = logits.softmax(1).max(1)
    if select == "random":
        order = torch.randperm(len(sure)).to(sure.device)
    else:
        order = sure.argsort(descending=True, stable=True)
    if select == "class":
        by_class = labels[order].argsort(stable=True)
        counts = labels.bincount(minlength=logits.shape[1])
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[labels[order][by_class]]
        order = order[torch.empty_like(place).scatter_(0, by_class, place).argsort(stable=True)]
    order = order[sure[order] >= min_confidence][:keep]
    return order, labels[order]
