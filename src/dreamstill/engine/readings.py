"""The loss terms between two readings, summed on the device so that the host does not wait for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dreamstill.errors import DivergedError


def diverged(what: str, iteration: int) -> DivergedError:
    """The error for something that is NaN or infinite."""
    return DivergedError(
        f"{what} became NaN or infinite before iteration {iteration}; the last checkpoint is good. Lower the learning "
        "rate or that term's weight, or set a gradient clip, and start again"
    )


class Readings:
    """Sums of 0-d tensors by name."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one step of the network ``name``."""
        for term, value in terms.items():
            key = f"{name}/{term}"
            if key in self._sums:
                self._sums[key] += value.detach()
            else:
                self._sums[key] = value.detach().clone()
            self._counts[key] = self._counts.get(key, 0) + 1

    def take(self, average: Callable[[Tensor], Tensor], dtype: torch.dtype, iteration: int) -> dict[str, float]:
        """Mean of each term over the steps since the last call, and over ranks.

        Raises:
            DivergedError: a term is NaN or infinite; names it.
        """
        if not self._sums:
            return {}
        keys = list(self._sums)
        values = average(torch.stack([self._sums[k].to(dtype) for k in keys]))
        means = {k: v / self._counts[k] for k, v in zip(keys, values.tolist(), strict=True)}
        self._sums, self._counts = {}, {}
        bad = [k for k, v in means.items() if not math.isfinite(v)]
        if bad:
            raise diverged(" and ".join(bad), iteration)
        return means


def check_finite(modules: Mapping[str, nn.Module], iteration: int) -> None:
    """Check a method's networks, because a finite loss can leave weights that are not finite.

    Raises:
        DivergedError: weights are NaN or infinite; names the network.
    """
    for name, module in modules.items():
        values = [v for v in module.state_dict().values() if v.is_floating_point()]
        if values and not bool(torch.stack([v.isfinite().all() for v in values]).all()):
            raise diverged(f"weights of the {name}", iteration)
