"""The averaged student, which is the one delivered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamstill.networks.network import Network, copied
from dreamstill.networks.probes import without_probes


class Ema:
    """Exponential moving average of a network's parameters and buffers.

    The decay is scaled to the schedule: the average reaches back over ``share`` of the iterations, in a short run as
    in a long one. Early on it is the plain mean of all updates so far, so the initial weights do not linger.
    """

    def __init__(self, network: Network, iterations: int, share: float = 0.02) -> None:
        self.share = share
        self.lengthen(iterations)
        self.network = copied(network).requires_grad_(False).eval()
        without_probes(self.network)
        self.updates = 0

    def lengthen(self, iterations: int) -> None:
        """Scale the decay to another length of the schedule."""
        self.decay = 1.0 - 1.0 / max(self.share * iterations, 1.0)

    @torch.no_grad()
    def update(self, live: nn.Module) -> None:
        """Move towards the live network."""
        self.updates += 1
        weight = max(1.0 - self.decay, 1.0 / self.updates)
        ours, theirs = _tensors(self.network), _tensors(live)
        pairs = [(mine, new) for mine, new in zip(ours, theirs, strict=True) if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in pairs], [new for _, new in pairs], weight)
        for mine, new in zip(ours, theirs, strict=True):
            if not mine.is_floating_point():
                mine.copy_(new)


def _tensors(module: nn.Module) -> list[Tensor]:
    # Listed anew in every update: a network may replace its buffers.
    return [t.detach() for t in (*module.parameters(), *module.buffers())]
