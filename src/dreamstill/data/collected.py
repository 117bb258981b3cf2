"""Collected images: a few real, unlabelled images, gathered because they resemble training data that is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamstill.data.decode import decode, fit
from dreamstill.data.load import encoded, load_images
from dreamstill.errors import InputError
from dreamstill.networks.pixels import to_float

LEAST = 64
Select = Literal["confidence", "class", "flexible", "random"]


class Ranking(NamedTuple):
    """The collected images that are kept, the most confident first."""

    order: Tensor  # int64 ``m``: their numbers
    labels: Tensor  # int64 ``m``: the teacher's class for each
    sure: Tensor  # ``m``: the teacher's probability of that class

    def facts(self, num_classes: int) -> dict[str, Any]:
        """How many are kept, how they spread over the teacher's classes, and how sure it is of them."""
        counts = torch.bincount(self.labels.cpu(), minlength=num_classes).tolist()
        return {"kept": len(self.order), "classes": counts, "confidence": float(self.sure.median())}


@dataclass(frozen=True)
class Collected:
    """Collected images (uint8 ``n c h w``), and which files were left out or resized.

    Attributes:
        pixels: the images, in the source's order.
        source: where they came from, as the user named it.
        unreadable: names of the files that no image could be read from; they are left out.
        resized: names of the images of another size, resized on the short side and cropped in the centre (28x28
            ones wanted at 32 are padded with zeros).
        names: of the images; empty if the source has none.
    """

    pixels: Tensor
    source: str
    unreadable: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def outside(self) -> str:
        """The entry in the run's list of outside information."""
        aside = [f"{len(names)} {what}" for names, what in self._changed() if names]
        return f"{len(self)} collected unlabelled images, {self.source}" + (f" ({'; '.join(aside)})" if aside else "")

    @property
    def notes(self) -> list[str]:
        """A sentence on what was left out and one on what was resized, with the first five names."""
        return [
            f"{len(names)} of the collected images {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for names, what in self._changed()
            if names
        ]

    @property
    def sha256(self) -> str:
        """Hex digest of the pixels."""
        return hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()

    def account(self, ranking: Ranking | None) -> dict[str, Any]:
        """All images that were left out or resized, and name, class and confidence of those kept, best first.

        Args:
            ranking: the method's, or None if it makes none.
        """
        found: dict[str, Any] = {
            "source": self.source, "images": len(self), "unreadable": self.unreadable, "resized": self.resized
        }  # fmt: skip
        if ranking is not None:
            columns = zip(*(column.tolist() for column in ranking), strict=True)
            found["kept"] = [
                {"image": self.names[i] if self.names else i, "class": y, "confidence": round(sure, 4)}
                for i, y, sure in columns
            ]
        return found

    def _changed(self) -> list[tuple[tuple[str, ...], str]]:
        return [(self.unreadable, "unreadable, left out"), (self.resized, "of another size, resized")]


def load_collected(
    source: str, *, image_size: tuple[int, int], channels: int, root: str | Path | None = None
) -> Collected:
    """Read collected images. What cannot be read is left out and named. Labels and class folders are ignored.

    Args:
        source: ``digits`` or a name under ``root``, a parquet file or folder, a folder of images at any depth, or
            ``hub:owner/name``; the split ``train`` if there are several.
        image_size: (height, width) that they are resized to.
        channels: 1 makes grey, 3 repeats grey.
        root: folder that holds the named sets.

    Raises:
        InputError: the source does not exist, or nothing in it can be read.
    """
    if source == "digits":
        return Collected(load_images(source, "train", image_size=image_size, channels=channels).pixels, source)
    arrays: list[np.ndarray] = []
    names: list[str] = []
    unreadable: list[str] = []
    resized: list[str] = []
    for name, content in encoded(source, "train", root):
        picture = decode(content)
        if picture is None:
            unreadable.append(name)
            continue
        if (picture.height, picture.width) != image_size:
            resized.append(name)
        arrays.append(fit(picture, image_size, channels))
        names.append(name)
    if not arrays:
        raise InputError(
            f"none of the {len(unreadable)} images of {source} can be read, first {', '.join(unreadable[:5])}: give a "
            "folder or parquet file of images"
        )
    return Collected(torch.from_numpy(np.stack(arrays)), source, tuple(unreadable), tuple(resized), tuple(names))


def enough(collected: Collected, batch: int, num_classes: int) -> None:
    """Require enough images to go on: two batches, at least 64, and as many as there are classes.

    Raises:
        InputError: there are fewer.
    """
    least = max(LEAST, 2 * batch, num_classes)
    if len(collected) < least:
        lost = f" ({len(collected.unreadable)} more cannot be read)" if collected.unreadable else ""
        raise InputError(
            f"{collected.source} has {len(collected)} usable images{lost}, expected at least {least} (two batches, "
            f"64, and as many as the {num_classes} classes): collect more, or lower batch_size"
        )


@torch.no_grad()
def ranked(
    logits_of: Callable[[Tensor], Tensor], pixels: Tensor, select: Select, min_confidence: float, keep: int
) -> Ranking:
    """Which images to keep, and the teacher's labels of them.

    Args:
        logits_of: from images (``b c h w``, [0, 1]) to the teacher's logits.
        pixels: uint8 ``n c h w``.
        select: ``confidence``: by the largest probability, that is by the smallest cross-entropy with the teacher's
            own arg-max. ``class``: the most confident image of every class first, then the second of every class, and
            so on. ``flexible``: by confidence, with a lower ``min_confidence`` for rarer classes: it is multiplied by
            ``s / (2 - s)`` if the images that reach it are ``s`` times as many as the most frequent class's (FlexMatch,
            Zhang et al., arXiv:2110.08263). ``random``: in an order from torch's own stream.
        min_confidence: the smallest probability that is kept.
        keep: how many, at most.

    Raises:
        InputError: ``flexible`` without ``min_confidence``.
    """
    if select == "flexible" and min_confidence == 0:
        raise InputError("select is flexible and min_confidence is 0: give the probability to be lowered, as 0.95")
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
    least = torch.full_like(sure, min_confidence)
    if select == "flexible":
        certain = labels[sure >= min_confidence].bincount(minlength=logits.shape[1])
        often = certain / certain.max().clamp_min(1)
        least *= (often / (2 - often))[labels]
    order = order[sure[order] >= least[order]][:keep]
    return Ranking(order, labels[order], sure[order])
