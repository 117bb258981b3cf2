"""Residual networks for 32x32 images: ResNet-18/34, the 16-32-64 family, wide ResNets."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dreamstill.errors import InputError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., arXiv:1512.03385); 1x1 projection where shapes change."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class WideBlock(nn.Module):
    """Pre-activation block of a wide ResNet (Zagoruyko and Komodakis, arXiv:1605.07146)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.project = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if c_in != c_out or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w``."""
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        # A projection reads the activated input, an identity the raw one, as in the authors' network.
        return y + (x if self.project is None else self.project(active))


def _stage(block: type[nn.Module], count: int, c_in: int, c_out: int, stride: int) -> nn.Sequential:
    first: nn.Module = block(c_in, c_out, stride)
    return nn.Sequential(first, *[block(c_out, c_out, 1) for _ in range(count - 1)])


def _he_init(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """ResNet-18/34 with a 3x3 stride-1 stem and no max-pool; ``width`` scales 64-128-256-512."""

    classifier = "linear"

    def __init__(
        self, *, num_classes: int, channels: int, image_size: int, blocks: Sequence[int], width: float = 1.0
    ) -> None:
        super().__init__()
        widths = [max(1, round(w * width)) for w in (64, 128, 256, 512)]
        self.conv = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        ins, strides = [widths[0], *widths[:-1]], (1, 2, 2, 2)
        self.stages = nn.Sequential(
            *[_stage(BasicBlock, n, i, o, s) for n, i, o, s in zip(blocks, ins, widths, strides, strict=True)]
        )
        self.linear = nn.Linear(widths[-1], num_classes)
        self.taps = tuple(f"stages.{i}" for i in range(4))
        _he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b k``."""
        return self.linear(self.stages(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


class SmallResNet(nn.Module):
    """He et al.'s CIFAR ResNet of depth 6n + 2 with 16-32-64 channels; ``width`` scales them."""

    classifier = "linear"

    def __init__(self, *, num_classes: int, channels: int, image_size: int, depth: int, width: float = 1.0) -> None:
        super().__init__()
        n, rest = divmod(depth - 2, 6)
        if rest or n < 1:
            raise InputError(f"resnet{depth}: the depth must be 18, 34 or 6n + 2, as 8, 14, 20, 32, 56")
        widths = [max(1, round(w * width)) for w in (16, 32, 64)]
        self.conv = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        ins = [widths[0], *widths[:-1]]
        self.stages = nn.Sequential(
            *[_stage(BasicBlock, n, i, o, s) for i, o, s in zip(ins, widths, (1, 2, 2), strict=True)]
        )
        self.linear = nn.Linear(widths[-1], num_classes)
        self.taps = tuple(f"stages.{i}" for i in range(3))
        _he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b k``."""
        return self.linear(self.stages(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


class WideResNet(nn.Module):
    """WRN-depth-widen: three groups of (depth - 4) / 6 pre-activation blocks, 16, then 16-32-64 times ``widen``."""

    classifier = "linear"

    def __init__(self, *, num_classes: int, channels: int, image_size: int, depth: int, widen: int) -> None:
        super().__init__()
        n, rest = divmod(depth - 4, 6)
        if rest or n < 1 or widen < 1:
            raise InputError(f"wrn_{depth}_{widen}: the depth must be 6n + 4, as 10, 16, 22, 28, 40, the width >= 1")
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.groups = nn.Sequential(*[_stage(WideBlock, n, widths[i], widths[i + 1], (1, 2, 2)[i]) for i in range(3)])
        self.bn = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], num_classes)
        self.taps = tuple(f"groups.{i}" for i in range(3))
        _he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b k``."""
        return self.linear(F.relu(self.bn(self.groups(self.conv(x)))).mean((2, 3)))
