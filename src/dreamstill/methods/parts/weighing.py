"""The weight of a term whose size is not known in advance, measured while the student warms up."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamstill.engine import Engine


class Weighing:
    """``alpha = ratio D / mean L``: D as it is now, the term L averaged over all updates. Kept in the checkpoint.

    Args:
        engine: keeps and logs it.
        ratio: how many times D is to weigh alpha L.
    """

    def __init__(self, engine: Engine, ratio: float) -> None:
        self.ratio = ratio
        self.alpha = engine.buffer("alpha", torch.zeros((), dtype=engine.dtype))
        self.seen = engine.buffer("weighed", torch.zeros(2, dtype=engine.dtype))  # the sum of L, and of how many

    @torch.no_grad()
    def update(self, engine: Engine, d: Tensor, term: Tensor) -> None:
        """Take in D and L (0-d) of one more batch; changes ``alpha`` in place."""
        self.seen += torch.stack([term, torch.ones_like(term)])
        self.alpha.copy_(self.ratio * d * self.seen[1] / self.seen[0])
        engine.observe("generator", {"alpha": self.alpha})
