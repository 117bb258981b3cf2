"""Generators: from noise, and a class where they are conditional, to images in nominal [0, 1].

The literature's generators for small images end in a batch norm, that is in *standardised* pixels: exactly what
a teacher takes after its own mean and standard deviation. :class:`Destandardise` turns that into nominal [0, 1]
pixels, unclipped, so that the gradient is whole; banks clip and count what they clip.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamstill.adapters import Network
from dreamstill.errors import InputError

Condition = Literal["none", "concat", "ccbn"]


class Destandardise(nn.Module):
    """Standardised pixels to nominal [0, 1] ones: ``x * std + mean`` of the network the images are for."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.register_buffer("mean", network.mean.detach().clone(), persistent=False)
        self.register_buffer("std", network.std.detach().clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b c h w``."""
        return x * self.std + self.mean


class ConditionalBatchNorm(nn.Module):
    """Batch norm over the whole batch, then a scale and a shift of each sample's class (CPSC-DFKD; eps 1e-3)."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(features, eps=1e-3, affine=False)
        self.gain = nn.Embedding(num_classes, features)
        self.bias = nn.Embedding(num_classes, features)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``b f h w`` and labels ``b``."""
        return self.bn(x) * self.gain(y)[:, :, None, None] + self.bias(y)[:, :, None, None]


class UpsampleConv(nn.Conv2d):
    """Nearest-neighbour doubling, then a 3x3 convolution (padding 1), as one transposed convolution: the same function.

    A doubled pixel meets a 3x3 kernel only in sums of neighbouring weights, so a 4x4 kernel of stride 2 on the small
    map does the work with 16 multiplications in place of 36, and the large map is never written. Two cores, float32:
    2 to 3 times faster forward and backward at widths of 32 to 128 (``benchmarks/upsample.py``).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b c' 2h 2w``."""
        if x.shape[-2] * x.shape[-1] < 16:  # what building the kernel costs is not earned back
            return super().forward(F.interpolate(x, scale_factor=2))
        # Each weight of the (flipped, as transposing demands) kernel acts from both halves of a doubled pixel.
        spread = F.pad(self.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        rows = spread[:, :, 1:] + spread[:, :, :-1]
        return F.conv_transpose2d(x, rows[..., 1:] + rows[..., :-1], self.bias, stride=2, padding=1)


class Generator(nn.Module):
    """Linear, then twice (double, convolve), then tanh and a batch norm: DAFL's and DFAD's generator.

    Args:
        network: the teacher the images are for: gives size, channels, classes, mean and standard deviation.
        nz: length of the noise vector.
        width: channels of the last hidden map (``ngf``); the earlier ones have twice as many.
        condition: ``none``; ``concat`` (one-hot label beside the noise); ``ccbn`` (class-conditional batch norms
            in place of all plain ones, the last one included).

    Raises:
        InputError: a side is not a multiple of 4.
    """

    def __init__(self, network: Network, nz: int = 256, width: int = 64, condition: Condition = "none") -> None:
        super().__init__()
        h, w = network.image_size
        if h % 4 or w % 4:
            raise InputError(
                f"this generator doubles a small map twice, so it cannot make {h}x{w} images: use sides that are "
                "multiples of 4"
            )
        k = network.num_classes
        self.condition = condition
        self.num_classes = k
        self.seed_shape = (2 * width, h // 4, w // 4)
        self.linear = nn.Linear(nz + (k if condition == "concat" else 0), 2 * width * (h // 4) * (w // 4))
        self.conv1 = UpsampleConv(2 * width, 2 * width)
        self.conv2 = UpsampleConv(2 * width, width)
        self.conv3 = nn.Conv2d(width, network.channels, 3, padding=1)
        self.norm0, self.norm1 = self._norm(2 * width), self._norm(2 * width)
        self.norm2, self.norm3 = self._norm(width), self._norm(network.channels, affine=False)
        self.to_pixels = Destandardise(network)

    def _norm(self, features: int, affine: bool = True) -> nn.Module:
        if self.condition == "ccbn":
            return ConditionalBatchNorm(features, self.num_classes)
        return nn.BatchNorm2d(features, affine=affine)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise ``b nz`` (and labels ``b`` if conditional) to images ``b c h w``, nominal [0, 1], unclipped."""
        if self.condition == "concat":
            assert y is not None
            z = torch.cat([z, F.one_hot(y, self.num_classes).to(z.dtype)], dim=1)
        at = (y,) if self.condition == "ccbn" else ()
        x = self.norm0(self.linear(z).view(-1, *self.seed_shape), *at)
        x = F.leaky_relu(self.norm1(self.conv1(x), *at), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(x), *at), 0.2)
        return self.to_pixels(self.norm3(torch.tanh(self.conv3(x)), *at))
