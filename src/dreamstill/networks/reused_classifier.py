"""A student that ends in its teacher's own classifier, with a trained projection before it (SimKD's form).

Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022; HiDFD's released code takes the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamstill.errors import InputError
from dreamstill.networks.network import Network, plain_copy
from dreamstill.networks.probes import last_linear, without_probes

NAME = "shared_classifier"
TAP = "projector"


class SharedClassifier(nn.Module):
    """``classifier(mean over space of projector(map of the base))``; the classifier does not learn.

    The projector is 1x1, 3x3, 1x1 convolutions with batch norm and ReLU, half as wide inside as the teacher's features.
    Its parameters are the student's and stay at test time.

    Args:
        base: the network to build on. It is changed in place: its last linear layer, no longer needed, is removed.
        num_classes: classes.
        layer: dotted name of the base's layer whose output is its last map; None takes the input of the last linear
            layer as a 1x1 map.
        rectify: whether a ReLU belongs between that layer and the average.
        inputs: channels of that map.
        features: width of the teacher's features.
        size: height and width to pool the map to, if it is larger.
        positive: whether the teacher's features are never below 0; the projector then ends in a ReLU.
        bias: whether the teacher's classifier has one.
    """

    taps = (TAP,)
    classifier = "head"

    def __init__(
        self, base: nn.Module, *, num_classes: int, layer: str | None, rectify: bool, inputs: int, features: int,
        size: Sequence[int], positive: bool, bias: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        name = last_linear(base)
        if name is None:
            raise InputError(f"{type(base).__name__} has no nn.Linear that the teacher's classifier could replace")
        parent, _, leaf = name.rpartition(".")
        setattr(base.get_submodule(parent), leaf, nn.Identity())
        self.base, self.layer, self.rectify, self.size = base, layer, rectify, (size[0], size[1])
        if layer is not None:
            base.get_submodule(layer).register_forward_hook(_keep)
        hidden, kernel = max(1, features // 2), 3 if max(size) > 1 else 1
        parts: list[nn.Module] = []
        for c_in, c_out, k in ((inputs, hidden, 1), (hidden, hidden, kernel), (hidden, features, 1)):
            parts += [nn.Conv2d(c_in, c_out, k, padding=k // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
        self.projector = nn.Sequential(*parts if positive else parts[:-1])
        self.head = nn.Linear(features, num_classes, bias=bias).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b k``."""
        return self.head(self.projector(self._map(x)).mean((2, 3)))

    def _map(self, x: Tensor) -> Tensor:
        out = self.base(x)
        if self.layer is None:
            return out[:, :, None, None]
        holder: Any = self.base.get_submodule(self.layer)
        out, holder.kept = holder.kept, None
        out = F.relu(out) if self.rectify else out
        return out if tuple(out.shape[2:]) == self.size else F.adaptive_avg_pool2d(out, self.size)


def _keep(layer: Any, _inputs: Any, output: Tensor) -> None:
    """A hook that refers to no object, so that a copied network reads its own layers."""
    layer.kept = output


class Map(NamedTuple):
    """Where a network's last feature map is found."""

    layer: str | None  # None: no map is averaged for the classifier, so its input counts as a 1x1 map
    rectify: bool
    channels: int
    size: tuple[int, int]
    positive: bool  # on the images looked at, once rectified
    head: str  # dotted name of the classifier

    @property
    def tap(self) -> str:
        """The map's name for :class:`dreamstill.networks.probes.Probe`."""
        return self.layer or f"{self.head}:input"

    def read(self, tapped: Tensor) -> Tensor:
        """The map (``b c h w``) from what the probe gave."""
        if self.layer is None:
            return tapped[:, :, None, None]
        return F.relu(tapped) if self.rectify else tapped


def last_map(network: Network, images: Tensor, maps: bool = True) -> Map:
    """Run some images to find the map whose mean over space, rectified or not, is the classifier's input.

    Args:
        network: left as it is.
        images: a few, ``b c h w`` in [0, 1].
        maps: False looks for no map and takes the classifier's input.

    Raises:
        InputError: the network does not end in a linear layer on one vector per image.
    """
    copied = plain_copy(network)
    without_probes(copied)
    head = last_linear(copied.module)
    seen: dict[str, Tensor] = {}
    entered: list[Tensor] = []
    for name, layer in copied.module.named_modules():
        if name == head:
            layer.register_forward_pre_hook(lambda _layer, inputs: entered.append(inputs[0]))
        elif name:
            layer.register_forward_hook(lambda _layer, _inputs, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        logits = copied(images.cpu().float())
    if head is None or len(entered) != 1 or entered[0].dim() != 2 or logits.dim() != 2:
        raise InputError(
            f"{network.name} does not end in one nn.Linear on one vector per image, and a student can share its "
            "teacher's classifier only if both do: take another method or network"
        )
    vector = entered[0]
    for name in reversed(list(seen) if maps else []):
        out = seen[name]
        if not isinstance(out, Tensor) or out.dim() != 4 or out.shape[:2] != vector.shape:
            continue
        for rectify in (False, True):
            if torch.allclose((F.relu(out) if rectify else out).mean((2, 3)), vector, rtol=1e-4, atol=1e-5):
                positive = rectify or bool((out >= 0).all())
                return Map(name, rectify, out.shape[1], (out.shape[2], out.shape[3]), positive, head)
    return Map(None, False, vector.shape[1], (1, 1), bool((vector >= 0).all()), head)


def share_classifier(student: Network, mine: Map, teacher: Network, theirs: Map) -> Network:
    """Put the teacher's classifier on the student's network. The result describes itself and can be loaded again.

    Args:
        student: its module is built upon, not copied.
        mine: the student's map.
        teacher: its classifier is copied.
        theirs: the teacher's map.
    """
    head = teacher.module.get_submodule(theirs.head)
    assert isinstance(head, nn.Linear)
    kwargs: dict[str, Any] = {
        "layer": mine.layer,
        "rectify": mine.rectify,
        "inputs": mine.channels,
        "features": theirs.channels,
        "size": [min(a, b) for a, b in zip(mine.size, theirs.size, strict=True)],
        "positive": theirs.positive,
        "bias": head.bias is not None,
    }
    module = SharedClassifier(student.module, num_classes=teacher.num_classes, **kwargs)
    module.head.load_state_dict(head.state_dict())
    about = student.description()
    facts = {k: about[k] for k in ("num_classes", "image_size", "channels", "mean", "std")}
    kwargs = {"base": student.name, "base_args": student.kwargs, **kwargs}
    return Network(module, name=NAME, kwargs=kwargs, classes=student.classes, **facts)


def rebuilt(base: nn.Module, num_classes: int, kwargs: Mapping[str, Any]) -> SharedClassifier:
    """The module that :func:`share_classifier` made, without its weights, from a network of the base's kind.

    Raises:
        InputError: the arguments are not those that :func:`share_classifier` wrote.
    """
    own = {k: v for k, v in kwargs.items() if k not in ("base", "base_args")}
    try:
        return SharedClassifier(base, num_classes=num_classes, **own)
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"a {NAME} network cannot be built on {type(base).__name__} with {own} ({error}). A method makes it, so "
            "load it from its run folder"
        ) from error


def base_of(description: Mapping[str, Any]) -> tuple[Any, Any]:
    """Name and arguments of the innermost network where one is built upon another; twice None where none is."""
    found, args = None, None
    while isinstance(description, Mapping) and description.get("name") == NAME:
        kwargs = description.get("kwargs", {})
        found, args = kwargs.get("base"), kwargs.get("base_args", {})
        description = {"name": found, "kwargs": args}
    return found, args
