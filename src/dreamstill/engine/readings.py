"""The loss terms between two readings, summed on the device so that the host does not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dreamstill.errors import DivergedError


def diverged(what: str, iteration: int) -> DivergedError:
    """The sentence for something that is NaN or infinite at the end of an iteration; the first is 1."""
    return DivergedError(
        f"{what} became NaN or infinite by iteration {iteration}; the last checkpoint is good. Lower the learning "
        "rate or that term's weight, or set a gradient clip, and start again"
    )


class Readings:
    """Sums of 0-d tensors by name, and how many of its steps each stayed finite for."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._finite: dict[tuple[str, ...], Tensor] = {}
        self._steps: dict[tuple[str, ...], list[int]] = {}  # numbers of the steps that had these terms
        self._number = 0

    def add(self, name: str, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one step of the network ``name``."""
        if not terms:
            return
        keys = tuple(f"{name}/{term}" for term in terms)
        values = torch.stack([value.detach() for value in terms.values()])
        if keys in self._sums:
            self._sums[keys] += values
            self._finite[keys] += self._sums[keys].isfinite()
        else:
            self._sums[keys], self._finite[keys] = values, values.isfinite().to(torch.int32)
        self._steps.setdefault(keys, []).append(self._number)
        self._number += 1

    def take(self, average: Callable[[Tensor], Tensor], dtype: torch.dtype, iteration: int) -> dict[str, float]:
        """Mean of each term over the steps since the last call, and over ranks.

        Raises:
            DivergedError: one is NaN or infinite; names the first that was, for it spreads to the others.
        """
        if not self._sums:
            return {}
        names = [name for keys in self._sums for name in keys]
        steps = [self._steps[keys] for keys in self._sums for _ in keys]
        sums = average(torch.cat([v.to(dtype) for v in self._sums.values()])).cpu()
        finite = torch.cat(list(self._finite.values())).cpu()
        self._sums, self._finite, self._steps, self._number = {}, {}, {}, 0
        if not bool(sums.isfinite().all()):
            raise diverged(_first_of(names, steps, finite.tolist()), iteration)
        counts = torch.tensor([len(s) for s in steps], dtype=dtype)
        totals: dict[str, tuple[float, float]] = {}
        for name, value, count in zip(names, sums.tolist(), counts.tolist(), strict=True):
            before = totals.get(name, (0.0, 0.0))  # a step may have other terms than the one before
            totals[name] = (before[0] + value, before[1] + count)
        return {name: value / count for name, (value, count) in totals.items()}


def _first_of(names: list[str], steps: list[list[int]], finite: list[int]) -> str:
    """The terms of the first step that had a NaN; all terms where only another rank saw one."""
    bad = [(s[good], name) for name, s, good in zip(names, steps, finite, strict=True) if good < len(s)]
    return " and ".join(dict.fromkeys(name for step, name in bad if step == min(bad)[0])) or " and ".join(names)


def check_finite(modules: Mapping[str, nn.Module], iteration: int) -> None:
    """Check a method's networks, because a finite loss can leave weights that are not finite.

    Raises:
        DivergedError: weights are NaN or infinite; names the network.
    """
    for name, module in modules.items():
        values = [v for v in module.state_dict().values() if v.is_floating_point()]
        if values and not bool(torch.stack([v.isfinite().all() for v in values]).all()):
            raise diverged(f"weights of the {name}", iteration)
