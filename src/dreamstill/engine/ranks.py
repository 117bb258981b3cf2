"""What several ranks compute together: gradients and batch norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dreamstill.errors import InputError
from dreamstill.networks.channel_moments import moments


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the global batch of all ranks, differentiable, on any device (CPU has no SyncBatchNorm)."""

    average: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the statistics of the batch over all ranks when training."""
        if not self.training or self.running_mean is None:
            return super().forward(x)
        kind, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # exact statistics for bf16 maps too
        mean, var = moments(x, self.running_mean)
        global_mean = self.average(mean)
        var = self.average(var + (mean - global_mean).square())
        self._remember(global_mean.detach(), var.detach(), x.numel() // x.shape[1])
        x = (x - global_mean.view(1, -1, 1, 1)) * torch.rsqrt(var + self.eps).view(1, -1, 1, 1)
        if self.weight is not None:
            x = x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return x.to(kind)

    def _remember(self, mean: Tensor, var: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        total = count * torch.distributed.get_world_size()
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * (total / max(total - 1, 1)), momentum)


def share_batch_norm(module: nn.Module, average: Callable[[Tensor], Tensor]) -> None:
    """Turn a network's batch norms into global ones, in place.

    Raises:
        InputError: it has a kind of batch norm that has no global version.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = GlobalBatchNorm2d
            # A function, not the bound method: copying the network must not copy the engine.
            layer.average = lambda x: average(x)  # type: ignore[assignment]
        elif isinstance(layer, _BatchNorm):
            raise InputError(
                f"{type(layer).__name__} cannot be trained on several ranks yet: use one process, or BatchNorm2d"
            )


def average_gradients(params: Sequence[nn.Parameter], ranks: int) -> None:
    """Give every rank the mean of all ranks' gradients, in place."""
    if ranks == 1:
        return
    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    torch.distributed.all_reduce(flat)
    flat /= ranks
    offset = 0
    for g in grads:
        g.copy_(flat[offset : offset + g.numel()].view_as(g))
        offset += g.numel()
