"""Max-pooling that halves a map, for maps of few channels on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDE = 8  # channels; from here on the library is as fast with a gradient, in channels_last (benchmarks/pool.py)


class HalvingPool(nn.MaxPool2d):
    """``nn.MaxPool2d(2)`` with the same values and (finite) gradients, computed in another way where that is faster.

    The CPU library pools value by value, with an index of eight bytes each, unless many channels lie side by side. Two
    maxima of halves give the same up to nine times faster without a gradient, and up to twice as fast with one.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b c h/2 w/2``, odd sides rounded down."""
        elsewhere = x.device.type != "cpu" or torch.compiler.is_compiling()
        learns = x.requires_grad and torch.is_grad_enabled()
        if elsewhere or x.shape[2] % 2 or x.shape[3] % 2 or (learns and x.shape[1] >= WIDE):
            return super().forward(x)
        if not learns:
            return forward_only(x)
        return both_ways(x)


def forward_only(x: Tensor) -> Tensor:
    """The largest of each 2x2 values (``b c h w``, even sides, to ``b c h/2 w/2``)."""
    return torch.maximum(*_pairs(torch.maximum(*_pairs(x, 2)), 3))


def both_ways(x: Tensor) -> Tensor:
    """The same with a gradient, which goes to the first of equal values in reading order, as the library's does."""
    y = _HalvingPool.apply(x)
    assert isinstance(y, Tensor)
    return y


def _pairs(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return (x[..., ::2], x[..., 1::2]) if dim == 3 else (x[..., ::2, :], x[..., 1::2, :])


def _first(one: Tensor, other: Tensor) -> Tensor:
    """1 where ``one`` is at least ``other``, else 0, in their own type, so that a product with it needs no cast."""
    return torch.ge(one, other, out=torch.empty_like(one))


class _HalvingPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        left, right = _pairs(x, 3)
        rows = torch.maximum(left, right)
        top, bottom = _pairs(rows, 2)
        ctx.save_for_backward(_first(left, right), _first(top, bottom))
        return torch.maximum(top, bottom)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        left, top = ctx.saved_tensors
        return _spread(_spread(grads[0], top, 2), left, 3)


def _spread(g: Tensor, first: Tensor, dim: int) -> Tensor:
    """Double one dimension. The first of each pair gets ``g`` where ``first`` is 1, else the second; the other is 0."""
    shape = [n * (2 if i == dim else 1) for i, n in enumerate(g.shape)]
    like = torch.channels_last if first.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    whole = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=like)
    one, other = _pairs(whole, dim)
    torch.mul(g, first, out=one)
    torch.sub(g, one, out=other)
    return whole
