"""Networks without shortcuts: LeNet-5, plain convolution blocks, VGG and AlexNet for 32x32 images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dreamstill.errors import InputError
from dreamstill.networks.builtin.grey_convolution import GreyConv2d
from dreamstill.networks.builtin.halving_pool import HalvingPool


class Block(nn.Sequential):
    """Convolution, batch norm or not, ReLU."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, padding: int = 1, stride: int = 1, bn: bool = True
    ) -> None:
        norm = [nn.BatchNorm2d(c_out)] if bn else []
        grey = c_in == 1 and stride == 1
        conv = GreyConv2d(c_out, kernel, padding) if grey else nn.Conv2d(c_in, c_out, kernel, stride, padding)
        super().__init__(conv, *norm, nn.ReLU(inplace=False))


class LeNet5(nn.Module):
    """LeNet-5 in DFAD's form for 32x32: 5x5 convolutions 6, 16, 120 with max-pools between, 84 hidden units.

    ``width=0.5`` gives 3, 8, 60, 42; ``bn`` adds batch norm after each convolution.
    """

    taps = ("conv1", "conv2", "conv3")
    classifier = "linear"

    def __init__(
        self, *, num_classes: int, channels: int, image_size: int, width: float = 1.0, bn: bool = False
    ) -> None:
        super().__init__()
        if image_size != 32:
            raise InputError(f"LeNet-5 takes 32x32 images, not {image_size}: pad 28x28 ones, or take convnet")
        c1, c2, c3, hidden = (max(1, round(c * width)) for c in (6, 16, 120, 84))
        self.conv1 = Block(channels, c1, 5, 0, bn=bn)
        self.conv2 = Block(c1, c2, 5, 0, bn=bn)
        self.conv3 = Block(c2, c3, 5, 0, bn=bn)
        self.pool = HalvingPool()
        self.hidden = nn.Linear(c3, hidden)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``b c 32 32`` to ``b k``."""
        x = self.conv3(self.pool(self.conv2(self.pool(self.conv1(x)))))
        return self.linear(self.relu(self.hidden(x.flatten(1))))


class ConvNet(nn.Module):
    """3x3 convolution blocks with max-pools between them, global average pooling, one linear layer."""

    classifier = "linear"

    def __init__(
        self, *, num_classes: int, channels: int, image_size: int, widths: Sequence[int] = (32, 64, 128)
    ) -> None:
        super().__init__()
        smallest = 2 ** (len(widths) - 1)
        if image_size < smallest:
            raise InputError(
                f"convnet with {len(widths)} widths halves the image {len(widths) - 1} times: it needs images of at "
                f"least {smallest} pixels, not {image_size}"
            )
        ins = [channels, *widths[:-1]]
        self.blocks = nn.Sequential(*[Block(i, o) for i, o in zip(ins, widths, strict=True)])
        self.pool = HalvingPool()
        self.linear = nn.Linear(widths[-1], num_classes)
        self.taps = tuple(f"blocks.{i}" for i in range(len(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b k``."""
        for i, block in enumerate(self.blocks):
            x = block(self.pool(x) if i else x)
        return self.linear(x.mean((2, 3)))


_VGG = {
    8: ((64,), (128,), (256,), (512,), (512,)),
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
}


def vgg(*, num_classes: int, channels: int, image_size: int, depth: int, width: float = 1.0) -> nn.Module:
    """VGG-8 or VGG-11 with batch norm for 32x32; ``width`` scales the channels."""
    return VGG(num_classes, channels, image_size, [[round(c * width) for c in stage] for stage in _VGG[depth]])


class VGG(nn.Module):
    """3x3 blocks in five stages; three max-pools at 32 pixels, a fourth from 64 on, as CPSC-DFKD's code has it."""

    classifier = "linear"

    def __init__(self, num_classes: int, channels: int, image_size: int, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        if image_size < 16:
            raise InputError(f"VGG halves the image several times: it needs at least 16 pixels, not {image_size}")
        built, c_in = [], channels
        for i, stage in enumerate(stages):
            blocks = []
            for c in stage:
                blocks.append(Block(c_in, c))
                c_in = c
            # Three pools at 32 pixels, a fourth from 64 on: the map stays at 4x4 before the average.
            pooled = 0 < i <= (4 if image_size >= 64 else 3)
            built.append(nn.Sequential(*([HalvingPool()] if pooled else []), *blocks))
        self.stages = nn.Sequential(*built)
        self.linear = nn.Linear(c_in, num_classes)
        self.taps = tuple(f"stages.{i}" for i in range(len(stages)))

    def forward(self, x: Tensor) -> Tensor:
        """``b c h w`` to ``b k``."""
        return self.linear(self.stages(x).mean((2, 3)))


class AlexNet(nn.Module):
    """AlexNet for 32x32 with batch norm and two hidden layers (the form of Wang's ZSDB3KD code); ``width`` scales."""

    taps = ("features.1", "features.3", "features.5", "features.6", "features.7")
    classifier = "linear"

    def __init__(self, *, num_classes: int, channels: int, image_size: int, width: float = 1.0) -> None:
        super().__init__()
        if image_size != 32:
            raise InputError(f"this AlexNet takes 32x32 images, not {image_size}")
        c = [round(w * width) for w in (64, 192, 384, 256, 256, 4096)]
        self.features = nn.Sequential(
            nn.Identity(),
            Block(channels, c[0], stride=2),
            HalvingPool(),
            Block(c[0], c[1]),
            HalvingPool(),
            Block(c[1], c[2]),
            Block(c[2], c[3]),
            Block(c[3], c[4]),
            HalvingPool(),
        )
        self.fc1 = nn.Sequential(nn.Linear(4 * c[4], c[5]), nn.ReLU(), nn.Dropout(), nn.BatchNorm1d(c[5]))
        self.fc2 = nn.Sequential(nn.Linear(c[5], c[5]), nn.ReLU(), nn.Dropout(), nn.BatchNorm1d(c[5]))
        self.linear = nn.Linear(c[5], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``b c 32 32`` to ``b k``."""
        return self.linear(self.fc2(self.fc1(self.features(x).flatten(1))))
