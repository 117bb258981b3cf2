"""Tasks: what an output is, how two networks are compared on it, how it is scored and drawn.

A run's task follows from its teacher's output (:func:`task_of`). Methods know it by ``engine.task`` and ask it for
little: its name and the loss of hard labels. Everything else is for what scores and reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dreamstill.data.image_set import ImageSet
from dreamstill.errors import InputError
from dreamstill.networks.network import Network, plain_copy
from dreamstill.tasks.classification import Classification
from dreamstill.tasks.segmentation import Segmentation


class Task(Protocol):
    """What a task offers. There are two: :class:`Classification` and :class:`Segmentation`."""

    name: ClassVar[str]  # as in a method's ``tasks``
    output: ClassVar[str]  # the shape of an output, in words of dimensions
    headline: ClassVar[str]  # the figure a student is judged by, as its key in summary.json
    looked_at: ClassVar[int]  # synthetic images that are made for the report, at least

    def label_loss(
        self, logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy with hard labels (0-d); ``weights``: one a class (``k``)."""

    def crop_flip(
        self, images: Tensor, labels: Tensor, shift: Tensor, flip: Tensor | None, pad: int, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Images (``b c h w``) and labels, moved and mirrored together (:func:`dreamstill.data.augment.crop_flip`)."""

    def resized_crop(
        self, images: Tensor, labels: Tensor, uniform: Tensor, flip: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The same rectangles of images and labels, scaled up (:func:`dreamstill.data.augment.resized_crop`)."""

    def scored(self, images: ImageSet, size: tuple[int, int]) -> ImageSet:
        """What is scored of images that are larger than a network's size (h, w)."""

    def predict(self, network: Network, pixels: Tensor) -> Tensor:
        """The classes of images (uint8 or [0, 1], ``n c h w``), on the CPU: integers ``n`` or ``n h w``."""

    def headline_of(self, predicted: Tensor, labels: Tensor, num_classes: int) -> float:
        """The headline figure of predicted classes against labels, a fraction."""

    def evaluate(self, student: Network, images: ImageSet, teacher: Network | None = None) -> dict[str, Any]:
        """All figures on a real set; ``agreement`` and ``teacher`` (its own) when there is one."""

    def samples(self, pixels: Tensor, predicted: Tensor, num_classes: int, classes: Sequence[str] | None) -> bytes:
        """A PNG of images (uint8 ``n c h w``) by what the teacher takes them for."""

    def comparison(self, images: ImageSet, networks: Sequence[tuple[str, Network]]) -> bytes | None:
        """A PNG of some labelled images beside what named networks make of them; None where figures say it all."""


_TASKS: dict[str, type[Classification] | type[Segmentation]] = {
    task.name: task for task in (Classification, Segmentation)
}


def task_of(network: Network) -> Task:
    """The task of a network, by the shape of what it returns for two blank images, which is found out once.

    Args:
        network: left as it is but for its ``task_name``; a copy runs on the CPU in eval mode.

    Raises:
        InputError: its output is neither one row of logits an image nor one map of logits an image.
    """
    if network.task_name is None:
        network.task_name = _task_name(network)
    return _TASKS[network.task_name]()


def _task_name(network: Network) -> str:
    with torch.no_grad():
        outputs = plain_copy(network)(torch.zeros(2, network.channels, *network.image_size))
    names = {2: Classification.name, 4: Segmentation.name}
    if outputs.dim() not in names:
        raise InputError(
            f"{network.name} returns {' x '.join(str(d) for d in outputs.shape)} for 2 images: expected one row of "
            "logits an image (b k) or a map of them (b k h w)"
        )
    return names[outputs.dim()]
