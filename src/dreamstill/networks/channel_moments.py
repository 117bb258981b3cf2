"""Mean and variance of each channel, written so that the compiler computes with them cheaply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def moments(x: Tensor, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel (both ``c``) of ``b c ...``; differentiable once.

    ``near``: a guess at the mean (``c``), a layer's running mean for instance. Code compiled for a CPU computes the
    variance as a difference of squares around it, which is as exact as the guess is good. Elsewhere it is not needed.
    """
    if x.device.type in ("cpu", "cuda"):
        return _Moments.apply(x, near)
    var, mean = torch.var_mean(x, others(x), correction=0)
    return mean, var


class _Moments(torch.autograd.Function):
    """One pass over the map forward, and one backward.

    In channels_last on a CPU, ``torch.var_mean`` over all but the channels is many times slower than the kernel that
    batch norm itself uses, and autograd keeps more than it needs. In a compiled step sums are better still: the
    compiler makes them part of another pass over the same map.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor]:
        if compiling_for_cpu(x):
            mean, var = sums_around(x, x.new_zeros(x.shape[1]) if near is None else near)
        else:
            mean, var = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, mean = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        slope = 2 / n * grads[1]
        offset = grads[0] / n - slope * mean
        return channelwise(torch.addcmul, stored(offset), x, stored(slope)), None


def sums_around(x: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel (both ``c``), from sums of the distances to ``near`` and their squares.

    These are two independent sums; Welford's rule is a chain of divisions.
    """
    n = x.numel() // x.shape[1]
    distance = channelwise(torch.sub, x, near)
    offset = total(distance) / n
    var = total(distance * distance) / n - offset * offset
    return stored(near + offset), var.clamp(min=0)


def stored(x: Tensor) -> Tensor:
    """The same vector. Code compiled for a CPU computes it once and reads it, and not again for every pixel.

    The compiler takes arithmetic on a vector of channels as cheap, and repeats it inside the loop over the map. With a
    root and a division in it, such a loop ran at less than half its speed. Asking for a vector's strides forces it
    into memory.
    """
    return x.as_strided(x.shape, x.stride()) if compiling_for_cpu(x) else x


def channelwise(fn: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """Apply ``fn`` value by value to maps of one shape (``b c ...``) and vectors of their channels (``c``)."""
    x = next(o for o in operands if o.dim() > 1)
    if not in_rows(x):
        return fn(*(wide(o, x) if o.dim() == 1 else o for o in operands))
    b, c, h, w = x.shape
    return fn(*(rows(o) if o.dim() > 1 else stored(o.repeat(w)) for o in operands)).view(b, h, w, c).permute(0, 3, 1, 2)


def in_rows(x: Tensor) -> bool:
    """Whether to compute on whole rows of ``w c`` values: for images and other maps of few channels, on a CPU.

    The compiler's innermost loop goes over the channels. With three of them it uses three lanes of sixteen.
    """
    few = x.dim() == 4 and 1 < x.shape[1] < 16
    return few and compiling_for_cpu(x) and x.is_contiguous(memory_format=torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """``b c h w`` as ``b*h, w*c``; a view if it is in channels_last."""
    b, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(b * h, w * c)


def compiling_for_cpu(x: Tensor) -> bool:
    """Whether this is being traced by ``torch.compile`` for a CPU."""
    return torch.compiler.is_compiling() and x.device.type == "cpu"


def total(x: Tensor) -> Tensor:
    """Sum over all but the channels, image by image (``c``)."""
    if x.dim() != 4:
        return x.sum(others(x))
    if in_rows(x):
        b, c, h, w = x.shape
        return rows(x).view(b, h, w * c).sum(1).sum(0).view(w, c).sum(0)
    return x.permute(0, 2, 3, 1).sum((1, 2)).sum(0)


def others(x: Tensor) -> list[int]:
    """All dimensions but the channels."""
    return [d for d in range(x.dim()) if d != 1]


def wide(v: Tensor, x: Tensor) -> Tensor:
    """A vector of channels (``c``) shaped so that it broadcasts over ``x`` (``b c ...``)."""
    return v.view([1, -1] + [1] * (x.dim() - 2))
