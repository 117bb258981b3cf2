"""A class-conditional GAN for small images: residual generator and discriminator under spectral norm.

The shape is BigGAN's (Brock et al., arXiv:1809.11096) in its 32x32 form, as HiDFD's released code selects it. Images
are nominal [0, 1] outside and [-1, 1] inside the two networks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dreamstill.errors import InputError
from dreamstill.networks.generators import ConditionalBatchNorm
from dreamstill.networks.network import Network

EPS = 1e-8
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class SpectralNorm(nn.Module):
    """Divide a weight by its largest singular value (Miyato et al., arXiv:1802.05957): a parametrisation.

    Each forward pass makes one power iteration in train mode and none in eval mode. The two vectors are buffers, so
    that a resumed run continues with them. Unlike torch's own version it multiplies element by element: mixed precision
    would cast a matrix product to bf16, and the estimate with it.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", _unit(torch.randn(matrix.shape[0])))
        self.register_buffer("v", _unit(torch.randn(matrix.shape[1])))
        for _ in range(15):  # the first images should already see a norm near 1
            self._iterate(matrix)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.u.copy_(_unit((matrix * self.v).sum(1)))
        self.v.copy_(_unit((matrix * self.u[:, None]).sum(0)))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight (any shape, the outputs first) with a spectral norm of about 1."""
        matrix = weight.flatten(1)
        if self.training:
            self._iterate(matrix.detach())
        # Clones: the next pass changes the vectors in place, and this one's gradient needs them.
        sigma = ((matrix * self.v.clone()).sum(1) * self.u.clone()).sum()
        return weight / sigma


def _unit(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt().clamp_min(EPS)


def _normed(layer: Layer) -> Layer:
    """Spectral norm on a layer, its weight drawn from N(0, 0.02)."""
    nn.init.normal_(layer.weight, 0.0, 0.02)
    register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return layer


def _conv(c_in: int, c_out: int, kernel: int = 3) -> nn.Conv2d:
    return _normed(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2))


def _linear(c_in: int, c_out: int) -> nn.Linear:
    return _normed(nn.Linear(c_in, c_out))


def doublings(image_size: tuple[int, int]) -> int:
    """How often a map of at least 4x4 is doubled to make images of this size.

    Raises:
        InputError: it cannot be made by doubling.
    """
    n = 0
    h, w = image_size
    while h % 2 == 0 and w % 2 == 0 and min(h, w) >= 8:
        h, w, n = h // 2, w // 2, n + 1
    if n == 0 or n > 5:
        raise InputError(
            f"this GAN doubles a map of at least 4x4 one to five times, so it cannot make {image_size[0]}x"
            f"{image_size[1]} images: use even sides of at least 8, powers of two up to 128"
        )
    return n


# ---------------------------------------------------------------- generator


def _conditional(features: int, num_classes: int) -> ConditionalBatchNorm:
    """BigGAN's form without a shared embedding: gain 1 + N(0, 0.02) and bias N(0, 0.02) of each class, eps 1e-5."""
    norm = ConditionalBatchNorm(features, num_classes)
    norm.bn.eps = 1e-5
    nn.init.normal_(norm.gain.weight, 1.0, 0.02)
    nn.init.normal_(norm.bias.weight, 0.0, 0.02)
    return norm


class UpBlock(nn.Module):
    """Norm, ReLU, double, convolve; norm, ReLU, convolve. The shortcut doubles and convolves 1x1."""

    def __init__(self, c_in: int, c_out: int, num_classes: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _conditional(c_in, num_classes), _conditional(c_out, num_classes)
        self.conv1, self.conv2 = _conv(c_in, c_out), _conv(c_out, c_out)
        self.shortcut = _conv(c_in, c_out, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``b c h w`` and labels ``b`` to ``b c' 2h 2w``."""
        out = self.conv1(F.interpolate(F.relu(self.norm1(x, y)), scale_factor=2))
        out = self.conv2(F.relu(self.norm2(out, y)))
        # A 1x1 convolution and nearest-neighbour doubling commute; this order costs a quarter.
        return out + F.interpolate(self.shortcut(x), scale_factor=2)


class ConditionalGenerator(nn.Module):
    """Noise and a class to images in [0, 1]; the class enters through the batch norms alone.

    Args:
        network: the teacher that the images are for; its size, channels and classes are used.
        nz: length of the noise vector.
        width: base width (released: 64). Up to 3 doublings (32x32) all maps have 4 times as many channels; from 4 on
            they go 16, 16, 8, 4, 2, (1) times the width, as in the released table.

    Raises:
        InputError: the image size cannot be made by doubling.
    """

    def __init__(self, network: Network, nz: int = 128, width: int = 64) -> None:
        super().__init__()
        n, k = doublings(network.image_size), network.num_classes
        channels = [width * m for m in ([4] * (n + 1) if n < 4 else [16, 16, 8, 4, 2, 1][: n + 1])]
        h, w = network.image_size
        self.seed_shape = (channels[0], h >> n, w >> n)
        self.linear = _linear(nz, channels[0] * (h >> n) * (w >> n))
        self.blocks = nn.ModuleList([UpBlock(c_in, c_out, k) for c_in, c_out in pairwise(channels)])
        self.norm = nn.BatchNorm2d(channels[-1])
        self.conv = _conv(channels[-1], network.channels)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Noise ``b nz`` and labels ``b`` to images ``b c h w`` in [0, 1]."""
        x = self.linear(z).view(-1, *self.seed_shape)
        for block in self.blocks:
            x = block(x, y)
        return (torch.tanh(self.conv(F.relu(self.norm(x)))) + 1) / 2


@torch.no_grad()
def follow(average: nn.Module, live: nn.Module, weight: float) -> None:
    """Move an averaged generator by ``weight`` (1: copy) towards the live one, batch-norm statistics included.

    The vectors of the power iterations are copied, because an average of unit vectors is not a unit vector.
    """
    ours = dict(average.named_parameters()) | dict(average.named_buffers())
    theirs = dict(live.named_parameters()) | dict(live.named_buffers())
    for name, mine in ours.items():
        copied = not mine.is_floating_point() or name.endswith((".u", ".v"))
        mine.copy_(theirs[name]) if copied else mine.lerp_(theirs[name], weight)


# ---------------------------------------------------------------- discriminator


class DownBlock(nn.Module):
    """ReLU, convolve, ReLU, convolve and, where ``down``, halve; the first block takes the image without the ReLU."""

    def __init__(self, c_in: int, c_out: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.first, self.down = first, down
        self.conv1, self.conv2 = _conv(c_in, c_out), _conv(c_out, c_out)
        self.shortcut = _conv(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b c' h w``, or half the sides."""
        out = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        # Averaging and a 1x1 convolution commute, so one order serves both kinds of block.
        side = self.shortcut(F.avg_pool2d(x, 2) if self.down else x)
        return (F.avg_pool2d(out, 2) if self.down else out) + side


class Judged(NamedTuple):
    """What the discriminator says about images."""

    real: Tensor  # ``b``: above 0 for real
    classes: Tensor  # ``b 2k``: 2y is a real image of class y, 2y + 1 a generated one
    features: Tensor  # ``b f``: its guess at the teacher's features


class Discriminator(nn.Module):
    """Three heads: real or generated; real and generated classes (2k); a guess at the teacher's features.

    Features are summed, not averaged, over space. The feature head is two linear layers with nothing between them, as
    released.

    Args:
        network: the teacher, for its size, channels and classes.
        features: width of the teacher's features.
        width: base width (released: 64). Images up to 32x32 get four blocks of 4 times the width, of which at most
            two halve the map. Larger ones get blocks of 1, 2, 4, 8, (16) times and one that does not halve.
    """

    def __init__(self, network: Network, features: int, width: int = 64) -> None:
        super().__init__()
        n = doublings(network.image_size)
        if n < 4:
            outs, downs = [4 * width] * 4, min(2, n)
        else:
            outs, downs = [width * min(1 << i, 16) for i in range(n + 1)], n
        ins = [network.channels, *outs[:-1]]
        self.blocks = nn.Sequential(
            *[DownBlock(c_in, c, i < downs, i == 0) for i, (c_in, c) in enumerate(zip(ins, outs, strict=True))]
        )
        self.real = _linear(outs[-1], 1)
        self.classes = _linear(outs[-1], 2 * network.num_classes)
        self.features = nn.Sequential(_linear(outs[-1], 2 * features), _linear(2 * features, features))

    def forward(self, images: Tensor) -> Judged:
        """Images ``b c h w`` in [0, 1]."""
        h = F.relu(self.blocks(2 * images - 1)).sum((2, 3))
        return Judged(self.real(h)[:, 0], self.classes(h), self.features(h))
