"""Generators: from noise, and a class where they are conditional, to images in nominal [0, 1].

The literature's generators for small images end in a batch norm. They give *standardised* pixels, which is exactly
what a teacher sees after its own normalisation. :class:`Destandardise` turns these into nominal [0, 1] pixels. It does
not clip, so that no gradient is lost; banks clip, and count what they clip.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamstill.errors import InputError
from dreamstill.networks.channel_moments import channelwise
from dreamstill.networks.network import Network

Condition = Literal["none", "concat", "multiply", "ccbn"]
Head = Literal["standardised", "tanh", "linear"]


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
        return channelwise(lambda v, std, mean: v * std + mean, x, self.std.flatten(), self.mean.flatten())


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


class LabelledNoise(nn.Module):
    """Put the label into the noise: append a one-hot (``concat``), multiply by a factor (``multiply``), or do nothing.

    The factors are an embedding of the class, as long as the noise and initially standard normal.
    """

    def __init__(self, nz: int, num_classes: int, condition: Condition) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.condition = condition
        self.length = nz + (num_classes if condition == "concat" else 0)
        if condition == "multiply":
            self.factors = nn.Embedding(num_classes, nz)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Noise ``b nz`` and labels ``b`` to ``b length``."""
        if self.condition == "concat":
            assert y is not None
            return torch.cat([z, F.one_hot(y, self.num_classes).to(z.dtype)], dim=1)
        return z * self.factors(y) if self.condition == "multiply" else z


class UpsampleConv(nn.Conv2d):
    """Nearest-neighbour doubling, then a 3x3 convolution (padding 1), as one transposed convolution: the same function.

    A doubled pixel meets a 3x3 kernel only in sums of neighbouring weights, so a 4x4 kernel of stride 2 on the small
    map does the work with 16 multiplications in place of 36, and the large map is never written. ``docs/speed.md``
    has the gain in a whole iteration, measured by ``benchmarks/changes.py``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b c' 2h 2w``."""
        if x.shape[-2] * x.shape[-1] < 16:  # too small to earn back the cost of building the kernel
            return super().forward(F.interpolate(x, scale_factor=2))
        # Each weight of the (flipped, as transposing demands) kernel acts from both halves of a doubled pixel.
        spread = F.pad(self.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        rows = spread[:, :, 1:] + spread[:, :, :-1]
        return F.conv_transpose2d(x, rows[..., 1:] + rows[..., :-1], self.bias, stride=2, padding=1)


SMALLEST = 4  # the small generator's sides are multiples of this: it doubles a quarter of each side twice


class Generator(nn.Module):
    """Linear, then twice (double, convolve), then tanh and a batch norm: DAFL's and DFAD's generator.

    Args:
        network: the teacher that the images are for; its size (square or not), channels, classes, mean and standard
            deviation are used.
        nz: length of the noise vector.
        width: channels of the last hidden map (``ngf``); the earlier ones have twice as many.
        condition: ``none``; ``concat`` (a one-hot label after the noise); ``multiply`` (the noise times an embedding
            of the label); ``ccbn`` (class-conditional batch norms in place of all plain ones, the last one included).
        head: how the images end. ``standardised``: a last batch norm gives every channel the teacher's mean and
            standard deviation, which is right if they are those of its training images. ``tanh``: a tanh from black to
            white without that batch norm, for teachers that normalise any images by 0.5 and 0.5. ``linear``: the batch
            norm without the tanh (ours: a saturated tanh leaves each pixel at its mean plus or minus its deviation).

    Raises:
        InputError: a side is not a multiple of 4.
    """

    def __init__(
        self,
        network: Network,
        nz: int = 256,
        width: int = 64,
        condition: Condition = "none",
        head: Head = "standardised",
    ) -> None:
        super().__init__()
        h, w = network.image_size
        _check_sides(h, w, SMALLEST)
        self.head = head
        self.wide = head != "tanh"  # images exceed [0, 1], so a bank of them needs a margin
        self.condition = condition
        self.num_classes = network.num_classes
        self.seed_shape = (2 * width, h // 4, w // 4)
        self.label = LabelledNoise(nz, network.num_classes, condition)
        self.linear = nn.Linear(self.label.length, 2 * width * (h // 4) * (w // 4))
        self.conv1 = UpsampleConv(2 * width, 2 * width)
        self.conv2 = UpsampleConv(2 * width, width)
        self.conv3 = nn.Conv2d(width, network.channels, 3, padding=1)
        norm = partial(_norm, num_classes=network.num_classes, condition=condition)
        self.norm0, self.norm1 = norm(2 * width), norm(2 * width)
        self.norm2 = norm(width)
        if head != "tanh":
            self.norm3 = norm(network.channels, affine=False)
        self.to_pixels = Destandardise(network)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise ``b nz`` (and labels ``b`` if conditional) to images ``b c h w``, nominal [0, 1], unclipped."""
        at = (y,) if self.condition == "ccbn" else ()
        x = self.norm0(self.linear(self.label(z, y)).view(-1, *self.seed_shape), *at)
        x = F.leaky_relu(self.norm1(self.conv1(x), *at), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(x), *at), 0.2)
        x = self.conv3(x)
        if self.head == "tanh":
            return channelwise(lambda v: (torch.tanh(v) + 1) / 2, x)
        return self.to_pixels(self.norm3(x if self.head == "linear" else channelwise(torch.tanh, x), *at))


class LargeGenerator(nn.Module):
    """Linear, then four stride-2 transposed convolutions, a convolution and tanh: the DCGAN type, for 64 to 224 pixels.

    Batch norm follows the first map, and with LeakyReLU 0.2 each transposed convolution. Nothing follows the tanh,
    whose range [-1, 1] is black to white. The form and the initial weights are those of the second generator in
    CPSC-DFKD's released code: weights from N(0, 0.02), norms' scales from N(1, 0.02), no offsets. What CGDD uses for
    large images is not known.

    Args:
        network: the teacher that the images are for; its size, channels and classes are used.
        nz: length of the noise vector.
        width: channels of the last two hidden maps; the ones before have 2, 4 and 8 times as many.
        condition: as in :class:`Generator`.

    Raises:
        InputError: a side is not a multiple of 16.
    """

    wide = False

    def __init__(self, network: Network, nz: int = 256, width: int = 64, condition: Condition = "none") -> None:
        super().__init__()
        h, w = network.image_size
        _check_sides(h, w, 16)
        self.condition = condition
        widths = [8 * width, 4 * width, 2 * width, width, width]
        self.seed_shape = (widths[0], h // 16, w // 16)
        self.label = LabelledNoise(nz, network.num_classes, condition)
        self.linear = nn.Linear(self.label.length, widths[0] * (h // 16) * (w // 16))
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 4, stride=2, padding=1, bias=False) for i, o in pairwise(widths)
        )
        self.norms = nn.ModuleList(_norm(c, num_classes=network.num_classes, condition=condition) for c in widths)
        self.conv = nn.Conv2d(width, network.channels, 3, padding=1)
        self.apply(_as_dcgan)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise ``b nz`` (and labels ``b`` if conditional) to images ``b c h w`` in [0, 1]."""
        at = (y,) if self.condition == "ccbn" else ()
        x = self.norms[0](self.linear(self.label(z, y)).view(-1, *self.seed_shape), *at)
        for conv, norm in zip(self.convs, self.norms[1:], strict=True):
            x = F.leaky_relu(norm(conv(x), *at), 0.2)
        return channelwise(lambda v: (torch.tanh(v) + 1) / 2, self.conv(x))


def _as_dcgan(layer: nn.Module) -> None:
    """DCGAN's initial weights (Radford et al., arXiv:1511.06434). The label's own factors are left as they are."""
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
        nn.init.normal_(layer.weight, 1.0, 0.02)
    elif isinstance(layer, ConditionalBatchNorm):
        nn.init.normal_(layer.gain.weight, 1.0, 0.02)


def nearest_sides(h: int, w: int, multiple: int) -> str:
    """The multiples nearest to the sides and above 0, as ``HxW``."""
    return "x".join(str(max(multiple, multiple * ((side + multiple // 2) // multiple))) for side in (h, w))


def _check_sides(h: int, w: int, multiple: int) -> None:
    """Refuse sides that doubling a small map does not give."""
    if h % multiple or w % multiple:
        nearest = nearest_sides(h, w, multiple)
        raise InputError(
            f"this generator makes images whose sides are multiples of {multiple}, and the teacher takes {h}x{w} ones: "
            f"take a teacher with such sides, of which {nearest} is the nearest, or a method without a generator"
        )


def _norm(features: int, num_classes: int, condition: Condition, affine: bool = True) -> nn.Module:
    return (
        ConditionalBatchNorm(features, num_classes) if condition == "ccbn" else nn.BatchNorm2d(features, affine=affine)
    )
