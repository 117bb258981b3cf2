"""Batch norm for compiled steps on a CPU, where it and the activations are half of a bf16 step.

From the library's batch norm the compiler makes slow code on a CPU, as the code that torch 2.15 generates shows. It
computes statistics by Welford's rule, a chain of divisions, and a root and a division for each value that it
normalises. Here there are two sums, and one scale and one shift per channel. ``docs/speed.md`` has the figures.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dreamstill.networks.channel_moments import channelwise, stored, sums_around, total


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm`, the same to rounding, running statistics included.

    Raises:
        ValueError: in training, with fewer than two values per channel.
    """
    c = x.shape[1]
    exact = torch.promote_types(x.dtype, torch.float32)
    weight = x.new_ones(c, dtype=exact) if weight is None else weight
    bias = x.new_zeros(c, dtype=exact) if bias is None else bias
    if not training:
        assert running_mean is not None
        assert running_var is not None
        scale = weight * torch.rsqrt(running_var + eps)
        return _Scaled.apply(x, scale, bias - running_mean * scale)
    n = x.numel() // c
    if n < 2:
        raise ValueError(f"training batch norm needs more than one value per channel, got input of {tuple(x.shape)}")
    near = torch.zeros_like(bias) if running_mean is None else running_mean
    y, mean, var = _Normalised.apply(x, weight, bias, near, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (n / (n - 1)), momentum)
    return y


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale + shift


class _Normalised(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` by the batch's own mean and variance, which it returns too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, near: Tensor, eps: float) -> Any:
        values = x.to(weight.dtype)
        mean, var = sums_around(values, near)
        inverse = stored(torch.rsqrt(var + eps))
        scale = stored(inverse * weight)
        y = channelwise(_affine, values, scale, stored(bias - mean * scale))
        ctx.save_for_backward(x, mean, inverse, scale)
        ctx.mark_non_differentiable(mean, var)
        return y.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> Any:
        x, mean, inverse, scale = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        dy, centred = dy.to(scale.dtype), channelwise(torch.sub, x.to(scale.dtype), mean)
        dbias = total(dy)
        projection = total(dy * centred)
        slope = stored(scale * inverse * inverse * projection * (-1 / n))
        offset = stored(scale * dbias * (-1 / n))
        # x comes first because the result takes its memory format. A mean's gradient arrives with channels first.
        dx = channelwise(lambda v, a, b, g, s: v * a + b + g * s, centred, slope, offset, dy, scale)
        return dx.to(x.dtype), projection * inverse, dbias, None, None


class _Scaled(torch.autograd.Function):
    """``x * scale + shift``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        scale = stored(scale)
        ctx.save_for_backward(x, scale)
        return channelwise(_affine, x.to(scale.dtype), scale, stored(shift)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, scale = ctx.saved_tensors
        dy = dy.to(scale.dtype)
        # The compiler drops gradients that are not used.
        return channelwise(torch.mul, dy, scale).to(x.dtype), total(x.to(scale.dtype) * dy), total(dy)


class LeanBatchNorm(TorchFunctionMode):
    """Within it, calls of the library's batch norm get :func:`batch_norm`. It is for functions being compiled."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass everything else on."""
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))
