"""A convolution of grey images whose gradient reaches the image cheaply."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

WIDEST = 128  # pixels: the product grows with the square of the width, and at 224 it lost (benchmarks/grey.py)


class GreyConv2d(nn.Conv2d):
    """``nn.Conv2d`` for one input channel and stride 1, with another way to compute the gradient of the image.

    Parameters and values are the same. The gradient of an image with one channel is what the CPU library does worst
    (LeNet-5's first layer: 2 GFLOP/s, eight times the forward pass), and synthesis needs it in every step. Images wider
    than ``WIDEST`` use the library.
    """

    def __init__(self, c_out: int, kernel: int, padding: int) -> None:
        super().__init__(1, c_out, kernel, 1, padding)

    def forward(self, x: Tensor) -> Tensor:
        """``b 1 h w`` to ``b c h' w'``."""
        if not x.requires_grad or x.device.type != "cpu" or x.shape[3] > WIDEST:
            return super().forward(x)
        y = _GreyConvolution.apply(x, self.weight, self.bias, self.padding[0])
        assert isinstance(y, Tensor)
        return y


class _GreyConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight), p = grads, ctx.saved_tensors, ctx.padding
        image, *others = ctx.needs_input_grad
        weight = weight.to(g.dtype)  # under autocast the output, and so its gradient, has fewer bits
        grad_x = to_image(g, weight, p) if image else None
        grad_w = conv2d_weight(x.to(g.dtype), list(weight.shape), g, padding=p) if others[0] else None
        return grad_x, grad_w, g.sum((0, 2, 3)) if others[1] else None, None


def to_image(g: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The gradient ``b 1 h w`` of a convolution's input from that of its output (``b c h' w'``), stride 1.

    A row of the output reaches k rows of the image, each through a banded matrix. One matrix product does all k. Most
    of it multiplies with zeros, and it is still several times faster.
    """
    b, c, h, w = g.shape
    k = weight.shape[2]
    wide = w + k - 1
    band = weight.new_zeros(k, c, w, wide)
    for j in range(k):
        band.diagonal(j, 2, 3).copy_(weight[:, 0, :, j].T[:, :, None].expand(k, c, w))
    rows = g.permute(0, 2, 3, 1).reshape(b * h, w * c) @ band.permute(2, 1, 0, 3).reshape(w * c, k * wide)
    rows = rows.view(b, h, k, wide)
    image = g.new_zeros(b, h + k - 1, wide)
    for i in range(k):
        image[:, i : i + h] += rows[:, :, i]
    return image[:, None, padding : h + k - 1 - padding, padding : wide - padding]
