"""The literature's small networks, by name, with widths as arguments.

Every one built here has ``taps`` (dotted names of the layers whose outputs are its stage feature maps) and
``classifier`` (dotted name of its last layer). torchvision's are looked up by their own names.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks.builtin.encoder_decoder import EncoderDecoder
from dreamstill.networks.builtin.plain import AlexNet, ConvNet, LeNet5, vgg
from dreamstill.networks.builtin.residual import ResNet, SmallResNet, WideResNet
from dreamstill.networks.builtin.third_party import smp_network, torchvision_network


def _builders() -> dict[str, tuple[Callable[..., nn.Module], dict[str, Any], str]]:
    """Name to builder, its preset arguments, and a line of description."""
    return {
        "lenet5": (LeNet5, {}, "LeNet-5 on 32x32: 6-16-120 convolutions, 84 hidden units, no batch norm"),
        "lenet5_half": (LeNet5, {"width": 0.5}, "half of LeNet-5: 3-8-60, 42"),
        "lenet5_bn": (LeNet5, {"bn": True}, "LeNet-5 with batch norm after each convolution"),
        "lenet5_bn_half": (LeNet5, {"bn": True, "width": 0.5}, "half of LeNet-5 with batch norm"),
        "convnet": (ConvNet, {}, "convolution, batch norm, ReLU blocks with pooling between; widths=(32, 64, 128)"),
        "resnet18": (ResNet, {"blocks": (2, 2, 2, 2)}, "ResNet-18 in its 32x32 form (3x3 stem, no max-pool)"),
        "resnet34": (ResNet, {"blocks": (3, 4, 6, 3)}, "ResNet-34 in its 32x32 form"),
        "vgg8": (vgg, {"depth": 8}, "VGG-8 with batch norm, for 32x32"),
        "vgg11": (vgg, {"depth": 11}, "VGG-11 with batch norm, for 32x32"),
        "alexnet": (AlexNet, {}, "AlexNet for 32x32: five convolutions, two hidden layers of 4096"),
        "alexnet_half": (AlexNet, {"width": 0.5}, "half of AlexNet for 32x32"),
    }


def _dense() -> dict[str, tuple[Callable[..., nn.Module], dict[str, Any], str]]:
    """The same for segmentation networks, which take images of any sides."""
    return {
        "encoder_decoder": (EncoderDecoder, {}, "segmentation: four stages down, and up again with sums; width=16"),
        **{name: (torchvision_network, {"function": name}, text) for name, text in _TORCHVISION.items()},
    }


_TORCHVISION = {
    "deeplabv3_resnet50": "segmentation: torchvision's DeepLabV3 on ResNet-50",
    "deeplabv3_mobilenet_v3_large": "segmentation: torchvision's DeepLabV3 on MobileNetV3-Large",
    "lraspp_mobilenet_v3_large": "segmentation: torchvision's LR-ASPP on MobileNetV3-Large",
}


_FAMILIES = {
    "wrn_D_K": "wide ResNet of depth D = 6n + 4 and width K, as wrn_40_2, wrn_16_1",
    "smp_NAME": "segmentation: segmentation_models_pytorch's, as smp_unet; encoder=resnet34",
    "resnetD": "He et al.'s 16-32-64 ResNet of depth D = 6n + 2, as resnet8, resnet20",
}


def names() -> dict[str, str]:
    """Built-in names and families, each with a line of description."""
    every = {**_builders(), **_dense()}
    return {name: text for name, (_, _, text) in every.items()} | _FAMILIES


def build(
    name: str, *, num_classes: int, channels: int = 3, image_size: int | tuple[int, int] = 32, **kwargs: Any
) -> nn.Module:
    """A fresh network, initialised from the global random stream.

    Args:
        name: one of :func:`names`.
        num_classes: classes.
        channels: of the images.
        image_size: side, or height and width, which must be equal for classifiers.
        kwargs: the network's own arguments.

    Raises:
        InputError: the name, an argument or the size does not fit.
    """
    builder, preset = find(name)
    arguments = {**preset, **kwargs}
    accepted = set(inspect.signature(builder).parameters)
    unknown = sorted(set(arguments) - accepted)
    if unknown:
        free = ", ".join(sorted(accepted - {"num_classes", "channels", "image_size"} - set(preset))) or "none"
        raise InputError(f"{name} takes no argument {', '.join(unknown)}: it takes {free}")
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if name in _dense() or builder is smp_network:
        return builder(num_classes=num_classes, channels=channels, image_size=sides, **arguments)
    if sides[0] != sides[1]:
        raise InputError(
            f"{name} is a classifier, and the built-in classifiers take square images, not {sides[0]}x{sides[1]}: give "
            f"one of your own as package.module:factory, or for segmentation one of {', '.join(sorted(_dense()))}"
        )
    return builder(num_classes=num_classes, channels=channels, image_size=sides[0], **arguments)


def find(name: str) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """The builder of a built-in network, and the arguments that its name stands for.

    Raises:
        InputError: there is no such network.
    """
    builders = {**_builders(), **_dense()}
    if name in builders:
        return builders[name][:2]
    if match := re.fullmatch(r"wrn_(\d+)_(\d+)", name):
        return WideResNet, {"depth": int(match[1]), "widen": int(match[2])}
    if match := re.fullmatch(r"smp_([a-z]\w*)", name):
        return smp_network, {"architecture": match[1]}
    if match := re.fullmatch(r"resnet(\d+)", name):
        return SmallResNet, {"depth": int(match[1])}
    close = difflib.get_close_matches(
        name, [*builders, "wrn_16_1", "wrn_16_2", "wrn_40_2", "resnet20"], n=3, cutoff=0.4
    )
    hint = f"did you mean {' or '.join(close)}?" if close else f"built in are {', '.join(names())}."
    raise InputError(f"there is no built-in network {name!r}: {hint} For your own, give package.module:factory")
