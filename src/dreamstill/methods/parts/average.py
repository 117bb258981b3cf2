"""The moving average of a network's weights."""

from __future__ import annotations

import copy

from torch import nn

from dreamstill.engine import Cast, Engine
from dreamstill.networks.gan import follow


class Average:
    """A copy of a generator that follows it, in eval mode and in the checkpoint.

    Args:
        engine: owns the copy.
        live: the generator.
        iterations: over how many it is averaged; 1 or less: it is a copy.
        start: share of the phase in which it is a copy too.
    """

    def __init__(self, engine: Engine, live: nn.Module, iterations: float, start: float) -> None:
        self.network, _ = engine.own("average", copy.deepcopy(live))
        self.network.eval()
        self.towards, self.start = 1 / max(iterations, 1), start

    def follow(self, engine: Engine, live: Cast) -> None:
        """Move towards the generator after a step of it."""
        follow(self.network.module, live.module, 1.0 if engine.progress < self.start else self.towards)
