"""Classification: logits ``b k``, one label an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from dreamstill.data import augment
from dreamstill.data.image_set import ImageSet
from dreamstill.networks.network import Network
from dreamstill.networks.predict import predict
from dreamstill.tasks import metrics
from dreamstill.tasks.sample_grid import sample_grid


class Classification:
    """How classifiers are compared, scored and drawn. See :class:`dreamstill.tasks.Task` for each function."""

    name: ClassVar[str] = "classification"
    output: ClassVar[str] = "b k"
    headline: ClassVar[str] = "accuracy"
    looked_at: ClassVar[int] = 1000

    def label_loss(
        self, logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of logits (``b k``) with labels (``b``)."""
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)

    def crop_flip(
        self, images: Tensor, labels: Tensor, shift: Tensor, flip: Tensor | None, pad: int, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The images moved and mirrored; a label is the same wherever its image is."""
        return augment.crop_flip(images, shift, flip, pad, size=size), labels

    def resized_crop(
        self, images: Tensor, labels: Tensor, uniform: Tensor, flip: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Rectangles of the images; a label is its whole image's."""
        return augment.resized_crop(images, uniform, flip, scale), labels

    def scored(self, images: ImageSet, size: tuple[int, int]) -> ImageSet:
        """The window in their centre."""
        top, left = ((have - want) // 2 for have, want in zip(images.pixels.shape[2:], size, strict=True))
        return replace(images, pixels=images.pixels[..., top : top + size[0], left : left + size[1]].contiguous())

    def predict(self, network: Network, pixels: Tensor) -> Tensor:
        """Classes (int64 ``n``) of images."""
        return predict(network, pixels).argmax(1)

    def headline_of(self, predicted: Tensor, labels: Tensor, num_classes: int) -> float:
        """Accuracy."""
        return float((predicted == labels).double().mean())

    def evaluate(self, student: Network, images: ImageSet, teacher: Network | None = None) -> dict[str, Any]:
        """Accuracy, calibration and the other figures of :func:`dreamstill.tasks.metrics.evaluate` finds."""
        return metrics.evaluate(student, images, teacher)

    def samples(self, pixels: Tensor, predicted: Tensor, num_classes: int, classes: Sequence[str] | None) -> bytes:
        """One row a class."""
        return sample_grid(pixels, predicted, num_classes, classes)

    def comparison(self, images: ImageSet, networks: Sequence[tuple[str, Network]]) -> bytes | None:
        """None."""
        return None
