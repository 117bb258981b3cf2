"""Wrap any network as a teacher or a student: images in [0, 1] in, logits out.

The adapter alone knows a network's mean and standard deviation. Everywhere else images are nominal [0, 1]
pixels, so that generators, banks, augmentation and networks with different normalisations fit together.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.overrides import TorchFunctionMode

from dreamstill.errors import InputError, first_line, user_error
from dreamstill.networks.channel_moments import channelwise

_MOST_VALUES = 1 << 27  # in one image, 6689 x 6689 in colour: a file may claim anything
AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Network(nn.Module):
    """A network from images in [0, 1] (``b c h w``) to logits (``b k``, or ``b k h w`` for a dense one).

    Logits have at least float32. A dense network's smaller map of logits is enlarged to the images' size (bilinear,
    corners not aligned). A map of one pixel (``b k 1 1``), as fully convolutional classifiers return it, is a row of
    logits.

    Args:
        module: any network that takes standardised images and returns logits, a mapping with ``"logits"`` or
            ``"out"``, or an object with ``.logits``.
        num_classes: number of classes ``k``, at least 2.
        image_size: side, or ``(height, width)``, in pixels.
        channels: 1 or 3, or whatever the network's first layer takes.
        mean: per channel or one for all, between 0 and 1; without mean and std images go into the module as they are.
        std: per channel or one for all, above 0 and at most 1.
        name: how the network can be built again: a built-in name or ``package.module:factory``.
        kwargs: the arguments it was built with.
        classes: their names in the order of the outputs, where they are known.
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
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        name: str = "",
        kwargs: dict[str, Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        mean, std = _normalisation(mean, std, channels)
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
        self.classes = tuple(map(str, classes)) if classes is not None and len(classes) == num_classes else None
        self.notes: list[str] = []  # a sentence for each choice made while loading it
        self.contiguous = False  # whether its layers cannot take images in channels_last; the engine finds out
        self.name = name or type(module).__name__
        try:  # the student's file keeps them as JSON: fail now, not after the training
            self.kwargs: dict[str, Any] = json.loads(json.dumps(kwargs or {}))
        except (TypeError, ValueError) as error:
            raise InputError(f"kwargs are {kwargs}, which JSON cannot hold ({error}): give plain values") from error
        # Not part of the state_dict: they are facts about the network, and its description keeps them.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (``b k`` or ``b k h w``) of images in [0, 1] (``b c h w``)."""
        facts = (self.mean.flatten(), self.std.flatten())
        standardised = channelwise(lambda v, mean, std: (v - mean) / std, images, *facts)
        logits = logits_of(self.module(standardised.contiguous() if self.contiguous else standardised))
        if logits.dim() == 4 and logits.shape[2:].numel() == 1 and images.shape[2:].numel() > 1:
            logits = logits.flatten(1)
        if logits.dim() == 4 and logits.shape[2:] != images.shape[2:]:
            logits = F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
        return logits

    def description(self) -> dict[str, Any]:
        """Everything needed to build the same network again, as plain JSON types."""
        return {
            "name": self.name,
            "kwargs": self.kwargs,
            "num_classes": self.num_classes,
            "image_size": list(self.image_size),
            "channels": self.channels,
            "mean": _shortest(self.mean),
            "std": _shortest(self.std),
            **({} if self.classes is None else {"classes": list(self.classes)}),
        }


def _normalisation(
    mean: Sequence[float] | float | None, std: Sequence[float] | float | None, channels: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (``c`` each) if they can be those of images in [0, 1].

    Raises:
        InputError: only one is given, a length is wrong, or no images in [0, 1] have these values.
    """
    if (mean is None) != (std is None):
        given, lacking = ("mean", "std") if std is None else ("std", "mean")
        raise InputError(f"{given} is given and {lacking} is not: give both, or {lacking} as the training used it")
    mean, std = _spread(0.0 if mean is None else mean, channels), _spread(1.0 if std is None else std, channels)
    for label, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise InputError(
                f"{label} has {len(values)} values and the images have {channels} channels: give one per channel"
            )
        if not all(map(math.isfinite, values)):
            raise InputError(f"{label} is {values}: every value must be finite")
    hint = "Mean and std are those of images in [0, 1], so divide values for pixels of 0 to 255 by 255"
    if not all(0 <= v <= 1 for v in mean):  # NaN fails too
        raise InputError(f"mean is {mean}: every value must be between 0 and 1. {hint}")
    if not all(0 < v for v in std):
        raise InputError(f"std is {std}: every value must be positive")
    if not all(v <= 1 for v in std):
        raise InputError(f"std is {std}: every value must be at most 1. {hint}")
    return mean, std


def _spread(values: Sequence[float] | float, channels: int) -> list[float]:
    """One value a channel, where one is given for all."""
    return [float(values)] * channels if isinstance(values, int | float) else [float(v) for v in values]


def _shortest(values: Tensor) -> list[float]:
    """The shortest decimals that give the same float32 again: 0.4914, not 0.49140000343322754."""
    return [float(str(v)) for v in values.detach().cpu().float().flatten().numpy()]


def logits_of(output: Any) -> Tensor:
    """The logits in whatever a network returned, in at least float32.

    Raises:
        InputError: the output is neither a tensor, nor a mapping or object that holds logits.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        what = type(output).__name__
        if isinstance(output, Mapping):
            what = f"a mapping with {', '.join(repr(key) for key in list(output)[:5]) or 'nothing in it'}"
        elif isinstance(output, tuple | list):
            what += f" of length {len(output)}"
        raise InputError(
            f"the network returned {what}, expected logits, a mapping with 'logits' or 'out', or an object with "
            ".logits. Wrap it in a module that returns the logits"
        )
    return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found


def sides(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from one side or two.

    Raises:
        InputError: it is neither, or a side is below 1; ``name`` is what the user calls it.
    """
    given = [value, value] if isinstance(value, int) else list(value)
    if len(given) != 2 or not all(isinstance(v, int) and v >= 1 for v in given):
        raise InputError(f"{name} is {value}: give one side of at least 1 pixel, or [height, width]")
    return given[0], given[1]


def noise_images(network: Network, n: int) -> Tensor:
    """Gaussian images (``n c h w``) with the network's mean and std, the same at every call."""
    drawn = torch.randn(n, network.channels, *network.image_size, generator=torch.Generator().manual_seed(n))
    return drawn * network.std.cpu().float() + network.mean.cpu().float()


class _Detached(TorchFunctionMode):
    """Within it ``copy.deepcopy`` copies results of a computation as plain tensors; torch refuses to copy them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if isinstance(tensor, UninitializedBuffer):  # torch copies its parameters only
                memo[id(tensor)] = UninitializedBuffer(device=tensor.device, dtype=tensor.dtype)  # type: ignore[call-arg]
                return memo[id(tensor)]
            if type(tensor) is Tensor and (not tensor.is_leaf or tensor.is_inference()):
                memo[id(tensor)] = tensor.detach().clone()
                return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def copied(network: AnyModule) -> AnyModule:
    """An independent copy of any network, whatever state it is in.

    Attributes besides parameters and buffers are copied too: its last features, for instance, or a weight that each
    forward pass computes anew. Such tensors lose the record of how they were computed.

    Raises:
        InputError: it holds something that cannot be copied, an open file for instance.
    """
    try:
        with torch.no_grad(), _Detached():  # with gradients the parameters of a copied TorchScript are no leaves
            new = copy.deepcopy(network)
    except Exception as error:  # whatever the user's attributes raise
        inner = getattr(network, "module", network)
        raise InputError(
            f"the network {getattr(network, 'name', '') or type(inner).__name__} cannot be copied "
            f"({type(error).__name__}: {first_line(error)}). Remove its attributes that are no layer, parameter, "
            "buffer or plain value"
        ) from error
    for mine, theirs in zip(new.parameters(), network.parameters(), strict=True):
        if not is_lazy(mine):
            mine.requires_grad_(theirs.requires_grad)
    return new


def plain_copy(network: AnyModule) -> AnyModule:
    """A frozen copy in float32 on the CPU, in eval mode."""
    return copied(network).cpu().float().eval().requires_grad_(False)


def materialise(network: Network) -> None:
    """Give layers without a shape yet (``nn.LazyLinear``) the shape that the network's images ask for, in place.

    Raises:
        InputError: the network fails on a blank image.
    """
    tensors = (*network.parameters(), *network.buffers())
    if not any(is_lazy(tensor) for tensor in tensors):
        return
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, network.channels, *network.image_size))
    except InputError:
        raise
    except Exception as error:  # whatever the user's forward() raises
        raise InputError(
            f"{network.name} learns the shape of some layers from the first images, and fails on blank ones of "
            f"{network.channels} x {network.image_size[0]} x {network.image_size[1]} (c h w) with {user_error(error)}. "
            "Give the channels and the image size it was trained on"
        ) from error
    network.train(training)
