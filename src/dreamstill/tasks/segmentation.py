"""Segmentation: logits ``b k h w``, one label a pixel, some of them void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamstill.data import augment
from dreamstill.data.image_set import VOID, ImageSet
from dreamstill.errors import InputError
from dreamstill.networks.network import Network
from dreamstill.networks.predict import predict
from dreamstill.tasks import class_maps, metrics

COMPARED = 6  # real images in the report
BATCH = 16  # images scored at a time: a map of logits is thousands of times a classifier's row


class Segmentation:
    """How dense predictions are compared, scored and drawn. See :class:`dreamstill.tasks.Task` for each function."""

    name: ClassVar[str] = "segmentation"
    output: ClassVar[str] = "b k h w"
    headline: ClassVar[str] = "miou"
    looked_at: ClassVar[int] = 128

    def label_loss(
        self, logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of logits (``b k h w``) with labels (``b h w``, any integers), mean over what is not void.

        Zero where all of a batch is void. Under several ranks each takes the mean over its own share, whose numbers of
        void pixels may differ.
        """
        y = labels.long()
        known = y != VOID
        total = known.sum() if weights is None else weights[torch.where(known, y, 0)].mul(known).sum()
        loss = F.cross_entropy(logits, y, weight=weights, ignore_index=VOID, label_smoothing=smoothing, reduction="sum")
        return loss / torch.where(total > 0, total, 1)

    def crop_flip(
        self, images: Tensor, labels: Tensor, shift: Tensor, flip: Tensor | None, pad: int, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Images and labels (``b h w``) moved and mirrored by the same draws; what comes in from outside is void."""
        moved = augment.crop_flip(labels[:, None], shift, flip, pad, fill=VOID, size=size)
        return augment.crop_flip(images, shift, flip, pad, size=size), moved[:, 0]

    def resized_crop(
        self, images: Tensor, labels: Tensor, uniform: Tensor, flip: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The same rectangles of images and labels (``b h w``), these by the nearest pixel."""
        maps = labels[:, None].to(images.dtype)
        images, maps = augment.resized_crops([(images, "bilinear"), (maps, "nearest")], uniform, flip, scale)
        return images, maps[:, 0].round().to(labels.dtype)

    def scored(self, images: ImageSet, size: tuple[int, int]) -> ImageSet:
        """The whole images: a network for maps takes any size."""
        return images

    def predict(self, network: Network, pixels: Tensor) -> Tensor:
        """Classes (uint8 ``n h w``) of images.

        Raises:
            InputError: more classes than a byte holds beside void.
        """
        if network.num_classes > VOID:
            raise InputError(f"{network.name} has {network.num_classes} classes: maps are kept for up to {VOID}")
        parts = [predict(network, part, BATCH).argmax(1).to(torch.uint8) for part in pixels.split(BATCH)]
        return torch.cat(parts)

    def headline_of(self, predicted: Tensor, labels: Tensor, num_classes: int) -> float:
        """Mean intersection over union."""
        return scores(confusion(predicted, labels, num_classes))["miou"]

    def evaluate(self, student: Network, images: ImageSet, teacher: Network | None = None) -> dict[str, Any]:
        """:func:`scores` and the confusion (rows: true class); ``agreement`` is the share of all pixels, void ones too.

        Raises:
            InputError: the set has labels and they are not maps, or teacher and student have other classes.
        """
        predicted = self.predict(student, images.pixels)
        result: dict[str, Any] = {} if images.labels is None else _scored(predicted, images.labels, student.num_classes)
        if teacher is not None:
            if teacher.num_classes != student.num_classes:
                raise InputError(
                    f"teacher and student have {teacher.num_classes} and {student.num_classes} classes: expected the "
                    "same"
                )
            other = self.predict(teacher, images.pixels)
            result["agreement"] = float((predicted == other).double().mean())
            if images.labels is not None:
                result["teacher"] = _scored(other, images.labels, teacher.num_classes)
        return result

    def samples(self, pixels: Tensor, predicted: Tensor, num_classes: int, classes: Sequence[str] | None) -> bytes:
        """Images with the teacher's map over them, and a legend."""
        return class_maps.overlay_sheet(pixels, predicted, num_classes, classes)

    def comparison(self, images: ImageSet, networks: Sequence[tuple[str, Network]]) -> bytes | None:
        """Image, truth and each network's map, of images evenly taken from the set."""
        assert images.labels is not None
        shown = images.subset(torch.linspace(0, len(images) - 1, min(COMPARED, len(images))).long())
        assert shown.labels is not None
        columns = [("truth", shown.labels), *((name, self.predict(n, shown.pixels)) for name, n in networks)]
        return class_maps.comparison_sheet(shown.pixels, columns, networks[0][1].num_classes, images.classes)


def _scored(predicted: Tensor, labels: Tensor, k: int) -> dict[str, Any]:
    counts = confusion(predicted, labels, k)
    return {**scores(counts), "confusion": counts.tolist()}


def confusion(predicted: Tensor, labels: Tensor, k: int) -> Tensor:
    """Pixels of each true class (rows) that were given each class (int64 ``k k``), over the whole set; void left out.

    Args:
        predicted: integers ``n h w`` in [0, k).
        labels: integers ``n h w`` in [0, k), or void.
        k: number of classes.

    Raises:
        InputError: a label is beyond the classes.
    """
    metrics.check_labels(labels, k)
    counts = torch.zeros(k * k, dtype=torch.int64)
    # In pieces: as int64 a whole set of maps would be eight times as large.
    for p, y in zip(predicted.split(BATCH), labels.split(BATCH), strict=True):
        valid = y != VOID
        counts += torch.bincount(y[valid].long() * k + p[valid].long(), minlength=k * k)
    return counts.view(k, k)


def scores(counts: Tensor) -> dict[str, Any]:
    """Figures from one confusion matrix over a whole set (int64 ``k k``, rows: true class).

    Returns:
        ``miou``: mean over classes of intersection over union, classes that neither occur nor were predicted left out
        (averaging a score an image, as some libraries do, is another figure); ``pixel_accuracy``; ``iou``: one a
        class, None where it is left out.
    """
    hits = counts.diag().double()
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    iou = [float(h / u) if u else None for h, u in zip(hits, union, strict=True)]
    known = [v for v in iou if v is not None]
    if not known:
        raise InputError("every pixel of the set is void: there is nothing to score, give a set with labelled pixels")
    return {
        "miou": sum(known) / len(known),
        "pixel_accuracy": float(hits.sum() / counts.sum()),
        "iou": iou,
    }
