"""What soft targets are drawn from: units of the teacher as one normal distribution, and what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.losses.soft_targets import entropy
from dreamstill.messages import say
from dreamstill.methods.parts.soft_targets import (
    classifier,
    concentrations,
    dirichlet_targets,
    linear,
    modelled_layer,
    shares,
    unit_rows,
)


class Units(NamedTuple):
    """What is modelled as one normal distribution, and what the teacher makes of a draw."""

    weight: Tensor  # ``d ...``: the incoming weights of each unit
    rest: Callable[[Tensor], Tensor]  # units ``n d`` to logits ``n k``
    bias: Tensor | None = None  # ``d``
    signed: bool = True  # whether they may be negative; filters that are pooled after a ReLU may not


def layer_units(engine: Engine, name: str | None, through: bool) -> Units:
    """The units of a layer of the teacher, whose draws enter the next linear layer.

    Args:
        engine: whose teacher it is.
        name: see :func:`modelled_layer`.
        through: they enter the layer's own activation and norms first.

    Raises:
        InputError: there is no such layer, or pooled filters have no activation to go through.
    """
    network = engine.given.teacher
    found = modelled_layer(network, name)
    if found.pooled and through:
        raise InputError(
            f"entry is through, and {found.name} is a convolution, whose filters are drawn as their averages "
            "over the map: take entry rectified, truncated or raw, or name a linear layer"
        )
    rest = engine.rest(network, found.name if through else f"{found.next}:input")
    bias = None if found.module.bias is None else found.module.bias.detach()
    return Units(found.module.weight, rest, bias, not found.pooled)


class Normal(NamedTuple):
    """The normal distribution of some units, and how a draw enters what follows: SoftTarget's settings."""

    mu: float
    sigma: float
    sigma_is: Literal["variance", "deviation"]  # of each unit
    bias: bool  # whether the units' own is added to mu
    entry: Literal["auto", "raw", "rectified", "truncated", "through"]
    centre: Literal["auto", "on", "off"]
    tau: float


@dataclass
class NormalTargets:
    """``y = softmax(g(a) / tau)``, ``a ~ N(mean, scale^2 R)``, R the cosines of the units' incoming weights.

    Attributes:
        rows: the units' incoming weights at length 1 (``d m``), so that ``rows @ noise`` is N(0, R).
        rest: g, units to logits.
        mean: of the units.
        scale: standard deviation of each.
        entry: what enters g: ``rectified``, the positive part; ``truncated``, the size; else the draw itself.
        centre: subtract each logit's mean over the draws.
        tau: temperature.
    """

    rows: Tensor
    rest: Callable[[Tensor], Tensor]
    mean: float | Tensor
    scale: float
    entry: str
    centre: bool
    tau: float

    @torch.no_grad()
    def draw(self, engine: Engine, n: int, first: int = 0) -> Tensor:
        """``n`` soft targets (``n k``, probabilities), the same on all ranks; no draw depends on the ``first`` ones."""
        with engine.alike():
            noise = self.rows.new_empty(n, self.rows.shape[1]).normal_()
        a = self.mean + self.scale * noise @ self.rows.T
        entering = a.relu() if self.entry == "rectified" else a.abs() if self.entry == "truncated" else a
        zeta = self.rest(entering)
        if self.centre:
            zeta = zeta - zeta.mean(0)
        return F.softmax(zeta / self.tau, dim=1)


@dataclass
class DirichletTargets:
    """ZSKD's: a Dirichlet distribution a class, by the similarities of the classes (``k k``)."""

    similar: Tensor

    @torch.no_grad()
    def draw(self, engine: Engine, n: int, first: int = 0) -> Tensor:
        """``n`` soft targets (``n k``) after ``first`` others, the same on all ranks."""
        with engine.alike():
            return dirichlet_targets(self.similar, n, first)[0]


@dataclass
class ClassTargets:
    """One class after the other, of ``k``, without any doubt."""

    k: int

    def draw(self, engine: Engine, n: int, first: int = 0) -> Tensor:
        """``n`` targets (``n k``) after ``first`` others."""
        index = torch.arange(first, first + n, device=engine.device)
        return F.one_hot(index % self.k, self.k).to(engine.dtype)


Targets = NormalTargets | DirichletTargets | ClassTargets


def normal_targets(units: Units, how: Normal) -> NormalTargets:
    """``auto``: a draw enters raw, but of pooled filters rectified; all entries but raw are centred."""
    entry = how.entry if how.entry != "auto" else "raw" if units.signed else "rectified"
    mean = how.mu + units.bias if how.bias and units.bias is not None else how.mu
    centre = how.centre == "on" or (how.centre == "auto" and entry != "raw")
    scale = how.sigma if how.sigma_is == "deviation" else math.sqrt(how.sigma)
    return NormalTargets(unit_rows(units.weight), units.rest, mean, scale, entry, centre, how.tau)


def targets_of(
    engine: Engine, space: Literal["layer", "softmax", "dirichlet", "onehot"], layer: str | None, how: Normal
) -> Targets:
    """What soft targets are drawn from, read off the teacher's weights.

    Args:
        engine: whose teacher it is.
        space: what is modelled: a ``layer``; the logits (``softmax``); the ``dirichlet`` distributions of ZSKD;
            ``onehot``, nothing.
        layer: the layer's name, if it is not the one that :func:`modelled_layer` finds.
        how: a layer or the logits are modelled.
    """
    network = engine.given.teacher
    if space == "onehot":
        return ClassTargets(network.num_classes)
    if space == "layer":
        return normal_targets(layer_units(engine, layer, how.entry == "through"), how)
    weight = linear(network, classifier(network)).weight
    if space == "dirichlet":
        return DirichletTargets(concentrations(weight))
    return normal_targets(Units(weight, lambda logits: logits), how._replace(entry="raw"))


def warn_of_poor_targets(engine: Engine, targets: Targets, batch: int, sigma: float, tau: float) -> None:
    """Warn of targets that say nothing, or that are nearly all of a few classes: no image can mend that.

    Args:
        engine: draws some, as many as its teacher's classes ask for.
        targets: looked at.
        batch: how many are drawn together.
        sigma: named in the warning.
        tau: the temperature, named in the warning.
    """
    k = engine.given.teacher.num_classes
    n = min(max(100 * k, 1000), 10_000)
    drawn = torch.cat([targets.draw(engine, batch, first) for first in range(0, n, batch)])
    share, most, nats = shares(drawn), math.log(k), float(entropy(drawn))
    if nats > 0.98 * most:
        say(
            f"warning: the soft targets' mean entropy is {nats:.3f} of at most {most:.3f} nats, so they hardly differ: "
            f"raise sigma ({sigma}) or lower tau ({tau})",
            warning=True,
        )
    if float(share.min()) < 0.3 / k or float(share.max()) > 2.5 / k:
        say(
            f"warning: the soft targets' classes are drawn unevenly, from {float(share.min()):.1%} to "
            f"{float(share.max()):.1%} where {1 / k:.1%} would be even: set centre on, or another entry",
            warning=True,
        )
