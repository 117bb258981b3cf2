"""Batch-norm statistics over this batch and earlier ones: what a small batch cannot show by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamstill.engine import Engine
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Moments, bn_layers


class MomentAverage:
    """Running means of the statistics that batches of images have, mixed into those of the batch at hand.

    Args:
        engine: keeps them in the checkpoint.
        teacher: whose batch norms they are of.
        share: of the earlier batches.
    """

    def __init__(self, engine: Engine, teacher: Network, share: float) -> None:
        self.share = share
        self.kept: list[tuple[Tensor, Tensor]] = []
        for i, layer in enumerate(bn_layers(teacher.module).values()):
            mean, var = layer.running_mean, layer.running_var
            assert mean is not None
            assert var is not None
            self.kept.append((engine.buffer(f"mean{i}", mean.clone()), engine.buffer(f"var{i}", var.clone())))

    def mix(self, moments: Sequence[Moments]) -> list[Moments]:
        """The batch's moments, each mixed with its running mean; differentiable."""
        return [
            m._replace(mean=torch.lerp(m.mean, mean, self.share), var=torch.lerp(m.var, var, self.share))
            for m, (mean, var) in zip(moments, self.kept, strict=True)
        ]

    def update(self, seen: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Count a finished batch in."""
        for (mean, var), (m, v) in zip(self.kept, seen, strict=True):
            mean.lerp_(m, 1 - self.share)
            var.lerp_(v, 1 - self.share)
