"""A supervised contrast of two networks' features: which features, how they come to one width, and the loss of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from dreamstill.engine import Engine
from dreamstill.engine.parts import Owned
from dreamstill.errors import InputError
from dreamstill.losses.contrastive import supervised_contrast
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Observed, last_linear


class Contrast:
    """The teacher's and the student's features as two views of each image, whose class is given with it.

    Args:
        engine: whose teacher and student these are.
        views: ``both`` networks' features, the ``teacher``'s alone, or None: nothing is contrasted.
        tau: temperature.

    Raises:
        InputError: a network has no features.
    """

    def __init__(self, engine: Engine, views: Literal["both", "teacher"] | None, tau: float) -> None:
        self.gather, self.tau = engine.gather, tau
        self.taps_t, self.width_t = penultimate(engine.given.teacher, "teacher") if views else ([], 0)
        self.taps_s, self.width_s = penultimate(engine.given.student, "student") if views == "both" else ([], 0)
        self.project: Callable[[Tensor], Tensor] | None = None
        self.opt: Owned | None = None
        self.scaled: Callable[[Tensor], Tensor] = F.normalize  # what becomes of the projection's output

    def own_projection(self, engine: Engine, lr: float) -> None:
        """Between unequal widths a projection of the student's features to the teacher's width, with its Adam."""
        if self.taps_s and self.width_s != self.width_t:
            to = nn.Linear(self.width_s, self.width_s), nn.ReLU(), nn.Linear(self.width_s, self.width_t)
            self.project, self.opt = engine.own("projection", nn.Sequential(*to), partial(Adam, lr=lr))

    def learning(self, weight: float) -> list[Owned]:
        """What learns from the contrast beside a network, in a loss where it has this weight: the projection."""
        return [self.opt] if self.opt is not None and weight > 0 else []

    def __call__(self, s: Observed, t: Observed, y: Tensor) -> Tensor:
        """The loss, over the images (``b``) of all ranks, of what student and teacher saw in images of classes y."""
        views = [F.normalize(t.taps[tap]) for tap in self.taps_t]
        for tap in self.taps_s:
            f = F.normalize(s.taps[tap])
            views = [f if self.project is None else self.scaled(self.project(f)), *views]
        return supervised_contrast([self.gather(v) for v in views], self.gather(y), self.tau)


def penultimate(network: Network, role: str, off: str = "gamma and gamma_s to 0") -> tuple[list[str], int]:
    """The tap, as a list of one, that sees what enters the network's classifier, and how many features that is.

    Args:
        network: the teacher or the student.
        role: which of them.
        off: the settings that do without, in words.

    Raises:
        InputError: there is no ``nn.Linear`` in it.
    """
    # Others than the built-in networks may keep the layer itself under this name, or any text.
    declared, layers = getattr(network.module, "classifier", None), dict(network.module.named_modules())
    named = isinstance(declared, str) and isinstance(layers.get(declared), nn.Linear)
    name = declared if named else last_linear(network.module)
    if name is None:
        raise InputError(
            f"the {role} {network.name} has no nn.Linear whose input could be its features: they are needed, "
            f"so take another network, or set {off}"
        )
    layer = network.module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return [f"{name}:input"], layer.in_features
