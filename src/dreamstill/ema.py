"""The averaged student: what is delivered."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dreamstill.adapters import Network
from dreamstill.probes import without_probes


class Ema:
    """Exponential moving average of a network's parameters and buffers.

    The decay is scaled to the schedule: the average reaches back over ``share`` of the iterations, so that a short
    run and a long one are averaged alike. Early on it is the plain mean of what there was, so the initial weights
    do not linger.
    """

    def __init__(self, network: Network, iterations: int, share: float = 0.02) -> None:
        self.decay = 1.0 - 1.0 / max(share * iterations, 1.0)
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        without_probes(self.network)
        self.updates = 0

    @torch.no_grad()
    def update(self, live: nn.Module) -> None:
        """Move towards the live network."""
        self.updates += 1
        weight = max(1.0 - self.decay, 1.0 / self.updates)
        ours, theirs = _floats(self.network), _floats(live)
        torch._foreach_lerp_(ours, theirs, weight)
        for mine, new in zip(_others(self.network), _others(live), strict=True):
            mine.copy_(new)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t.detach() for t in (*module.parameters(), *module.buffers())]


def _floats(module: nn.Module) -> list[Tensor]:
    return [t for t in _tensors(module) if t.is_floating_point()]


def _others(module: nn.Module) -> list[Tensor]:
    return [t for t in _tensors(module) if not t.is_floating_point()]
