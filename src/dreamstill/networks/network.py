"""Wrap any network as a teacher or a student: images in [0, 1] in, logits out.

The adapter alone knows a network's mean and standard deviation. Everywhere else images are nominal [0, 1]
pixels, so that generators, banks, augmentation and networks with different normalisations fit together.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamstill.errors import InputError
from dreamstill.networks.channel_moments import channelwise

_MOST_VALUES = 1 << 27  # of one image: 6689 x 6689 in colour; a file may say anything
AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Network(nn.Module):
    """A network from images in [0, 1] (``b c h w``) to logits (``b k``, of a dense one ``b k h w``; at least float32).

    A dense network's smaller map of logits is enlarged to the images' size (bilinear, corners not aligned).

    Args:
        module: any network that takes standardised images and returns logits, a mapping with ``"logits"`` or
            ``"out"``, or an object with ``.logits``.
        num_classes: number of classes ``k``, at least 2.
        image_size: side, or ``(height, width)``, in pixels.
        channels: 1 or 3, or whatever the network's first layer takes.
        mean: per channel, in [0, 1] units; ``None`` means 0 (no shift).
        std: per channel, in [0, 1] units, positive; ``None`` means 1 (no scaling).
        name: how the network can be built again: a built-in name or ``package.module:factory``.
        kwargs: the arguments it was built with.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        num_classes: int,
        image_size: int | tuple[int, int] | list[int],
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        name: str = "",
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        mean = [0.0] * channels if mean is None else [float(v) for v in mean]
        std = [1.0] * channels if std is None else [float(v) for v in std]
        for label, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                raise InputError(
                    f"{label} has {len(values)} values and the images have {channels} channels: give one a channel"
                )
            if not all(map(math.isfinite, values)):
                raise InputError(f"{label} is {values}: every value must be finite")
        if min(std) <= 0:
            raise InputError(f"std is {list(std)}: every value must be positive")
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}: a classifier needs at least 2")
        self.module = module
        self.num_classes = num_classes
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size: tuple[int, int] = (int(height), int(width))
        self.channels = channels
        if (count := channels * self.image_size[0] * self.image_size[1]) > _MOST_VALUES:
            raise InputError(
                f"images of {channels} x {self.image_size[0]} x {self.image_size[1]} (c h w) have {count:,} values: "
                f"give at most {_MOST_VALUES:,}"
            )
        self.task_name: str | None = None  # found once by dreamstill.tasks.task_of, and kept
        self.name = name or type(module).__name__
        try:  # as the student's file will have them: known now, or training would be for nothing
            self.kwargs: dict[str, Any] = json.loads(json.dumps(kwargs or {}))
        except (TypeError, ValueError) as error:
            raise InputError(f"kwargs are {kwargs}: they are written down, and {error}: give plain values") from error
        # Not part of the state_dict: they are facts about the network, and travel in its description.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (``b k`` or ``b k h w``) of images in [0, 1] (``b c h w``)."""
        facts = (self.mean.flatten(), self.std.flatten())
        logits = logits_of(self.module(channelwise(lambda v, mean, std: (v - mean) / std, images, *facts)))
        if logits.dim() == 4 and logits.shape[2:] != images.shape[2:]:
            logits = F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
        return logits

    def description(self) -> dict[str, Any]:
        """All that is needed to build the same network again, as plain JSON types."""
        return {
            "name": self.name,
            "kwargs": self.kwargs,
            "num_classes": self.num_classes,
            "image_size": list(self.image_size),
            "channels": self.channels,
            "mean": _shortest(self.mean),
            "std": _shortest(self.std),
        }


def _shortest(values: Tensor) -> list[float]:
    """The shortest decimals that give the same float32 again: 0.4914, not 0.49140000343322754."""
    return [float(str(v)) for v in values.detach().cpu().float().flatten().numpy()]


def logits_of(output: Any) -> Tensor:
    """The logits in whatever a network returned, in at least float32.

    Raises:
        InputError: the output is neither a tensor, nor a mapping or object that holds logits.
    """
    if isinstance(output, dict):
        output = output.get("logits", output.get("out"))
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise InputError(
            f"the network returned {type(output).__name__}: expected logits, a mapping with 'logits' or 'out', "
            "or an object with .logits; wrap it in a module that returns the logits"
        )
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def sides(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Height and width out of one side or two.

    Raises:
        InputError: something else, or a side below 1; ``name`` is what the user calls it.
    """
    given = [value, value] if isinstance(value, int) else list(value)
    if len(given) != 2 or not all(isinstance(v, int) and v >= 1 for v in given):
        raise InputError(f"{name} is {value}: give one side of at least 1 pixel, or [height, width]")
    return given[0], given[1]


def noise_images(network: Network, n: int) -> Tensor:
    """Gaussian images (``n c h w``) around what the network calls its mean and std, the same at every call."""
    drawn = torch.randn(n, network.channels, *network.image_size, generator=torch.Generator().manual_seed(n))
    return drawn * network.std.cpu().float() + network.mean.cpu().float()


def plain_copy(network: AnyModule) -> AnyModule:
    """A frozen copy in float32 on the CPU, in eval mode."""
    return copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
