"""``--student auto``: a built-in network that keeps to a limit of parameters, operations or time."""

from __future__ import annotations

import bisect
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks import builtin, cost
from dreamstill.networks.network import Network

Limit = Literal["params", "flops", "latency"]
Named = tuple[str, dict[str, Any]]  # a network with its arguments
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_TIMES = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_FEATURES = 2  # times the classes: what the last layer is fed, at least, or classes hide each other
_TIMED = 10  # single images, of which the median counts

# Depths of the families, the deepest first, and factors on their widths. Small grey images need no residual network.
_RESIDUAL = ("resnet20", "resnet14", "resnet8")
_FACTORS = (4.0, 3.0, 2.5, 2.0, 1.75, 1.5, 1.25, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.1875, 0.125)
_PLAIN = ((1, 2, 4, 8), (1, 2, 4), (1, 2))  # a ConvNet's widths, as multiples of the first
_FIRST = (128, 96, 64, 48, 40, 32, 24, 20, 16, 12, 10, 8, 6, 4, 3, 2)


@dataclass(frozen=True)
class Proposal:
    """A network that was found."""

    name: str
    kwargs: dict[str, Any]
    costs: dict[Limit, float]  # those that were limited, parameters always

    def said(self) -> str:
        """What it is and costs, in words."""
        given = ", ".join(f"{k} {v}" for k, v in self.kwargs.items())
        return f"{self.name} with {given} ({', '.join(spoken(k, v) for k, v in self.costs.items())})"


def spoken(limit: Limit, value: float) -> str:
    """A cost in words."""
    if limit == "latency":
        return f"{value * 1e3:.3g} ms an image"
    number = next((f"{value / s:.3g}{u}" for u, s in reversed(_UNITS.items()) if value >= s), f"{value:g}")
    return f"{number} {'parameters' if limit == 'params' else 'operations an image'}"


def limit_of(limit: Limit, given: float | str) -> float:
    """A limit as it is typed: ``300k``, ``30M``, ``5ms``; of a time without a unit milliseconds.

    Raises:
        InputError: it is none.
    """
    match = re.fullmatch(r"\s*([\d.]+(?:e\+?\d+)?)\s*([a-zA-Z]*)\s*", str(given))
    units = _TIMES if limit == "latency" else _UNITS
    unit = "" if match is None else match[2]
    unit = {"K": "k", "m": "M", "g": "G", "B": "G"}.get(unit, unit) if limit != "latency" else unit or "ms"
    try:
        value = float(match[1]) * units[unit] if match else 0.0
    except (ValueError, KeyError):
        value = 0.0
    if value <= 0:
        example = {"params": "300k", "flops": "30M", "latency": "5ms"}[limit]
        raise InputError(f"--target-{limit} is {given}: give a number above 0, as {example}")
    return value


def propose(teacher: Network, dense: bool, limits: dict[Limit, float]) -> Proposal:
    """The network with most parameters, of the family for these images, that keeps to all limits.

    One whose last layer would be fed fewer than twice as many features as there are classes is taken only where no
    other fits.

    Args:
        teacher: whose images and classes it is for.
        dense: whether it answers for every pixel.
        limits: at least one.

    Raises:
        InputError: none keeps to them; names the nearest.
    """
    found: list[Proposal] = []
    narrowest: list[Named] = []
    for tried in _families(teacher, dense):
        # Costs fall with the width: the widest that fits is found in a few trials.
        widest = bisect.bisect_left(tried, True, key=lambda t: _measured(teacher, t, limits) is not None)
        if widest < len(tried) and (largest := _measured(teacher, tried[widest], limits)) is not None:
            found.append(largest)
        narrowest.append(tried[-1])
    if not found:
        nearest = min((_priced(teacher, t, limits) for t in narrowest), key=lambda p: _over(p, limits))
        asked = " and ".join(spoken(k, v) for k, v in limits.items())
        raise InputError(
            f"no built-in network for these images keeps to {asked}: the nearest is {nearest.said()}; give "
            f"--student {nearest.name} --student-args '{_typed(nearest.kwargs)}' for it, or a larger target"
        )
    enough = [p for p in found if _features(p) >= _FEATURES * teacher.num_classes]
    return max(enough or found, key=lambda p: p.costs["params"])


def _families(teacher: Network, dense: bool) -> Iterator[list[Named]]:
    """Depth by depth, the networks of the family for a teacher's images, the widest first."""
    side = min(teacher.image_size)
    if dense:
        yield [("encoder_decoder", {"width": first}) for first in _FIRST]
    elif side >= 32 and teacher.channels >= 3:
        for name in _RESIDUAL:
            yield [(name, {"width": factor}) for factor in _FACTORS]
    else:
        for multiples in _PLAIN:
            if side >= 2 ** (len(multiples) - 1):
                yield [("convnet", {"widths": [first * m for m in multiples]}) for first in _FIRST]


def _measured(teacher: Network, tried: Named, limits: dict[Limit, float]) -> Proposal | None:
    """A network's costs if it keeps to all limits; the dearer ones are measured only where the others are kept."""
    name, kwargs = tried
    module = _built(teacher, name, kwargs)
    costs: dict[Limit, float] = {}
    for limit in ("params", "flops", "latency"):
        if limit == "params" or limit in limits:
            costs[limit] = _cost(limit, module, teacher)
        if costs.get(limit, 0.0) > limits.get(limit, float("inf")):
            return None
    return Proposal(name, kwargs, costs)


def _priced(teacher: Network, tried: Named, limits: dict[Limit, float]) -> Proposal:
    """A network with all costs that are limited."""
    name, kwargs = tried
    module = _built(teacher, name, kwargs)
    return Proposal(name, kwargs, {limit: _cost(limit, module, teacher) for limit in limits})


def _built(teacher: Network, name: str, kwargs: dict[str, Any]) -> nn.Module:
    facts = {"num_classes": teacher.num_classes, "channels": teacher.channels}
    return builtin.build(name, image_size=teacher.image_size, **facts, **kwargs).eval()


def _cost(limit: Limit, module: nn.Module, teacher: Network) -> float:
    if limit == "params":
        return float(sum(p.numel() for p in module.parameters()))
    if limit == "flops":
        return float(cost.count(module, teacher.channels, teacher.image_size).flops)
    return _seconds(module, teacher)


def _seconds(module: nn.Module, teacher: Network) -> float:
    """Of one image, the median of some, on the CPU with one thread, as a service has it."""
    image = torch.zeros(1, teacher.channels, *teacher.image_size)
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(_TIMED + 2):
                began = time.perf_counter()
                module(image)
                times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[2:])


def _over(found: Proposal, limits: dict[Limit, float]) -> float:
    return max(found.costs[k] / v for k, v in limits.items())


def _features(found: Proposal) -> float:
    """What the last layer is fed."""
    if found.name == "encoder_decoder":
        return float("inf")
    return float(found.kwargs["widths"][-1] if "widths" in found.kwargs else 64 * found.kwargs["width"])


def _typed(kwargs: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in kwargs.items()) + "}"
