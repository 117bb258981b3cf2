"""Segmentation networks of other libraries by name: torchvision's, and segmentation_models_pytorch's as an extra."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from dreamstill.errors import InputError


def torchvision_network(
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    function: str,
    aux_loss: bool = False,
    backbone_weights: str | None = None,
) -> nn.Module:
    """One of ``torchvision.models.segmentation``, without weights; returns ``{"out": b k h w, ...}``.

    Args:
        num_classes: classes.
        channels: 3.
        image_size: any.
        function: its name there.
        aux_loss: whether it has the auxiliary head, as checkpoints of torchvision's own do; DeepLabV3 only.
        backbone_weights: torchvision's name of weights for the backbone, which are downloaded; None gives fresh ones.

    Raises:
        InputError: torchvision is missing, or does not know the arguments.
    """
    segmentation = _imported("torchvision.models.segmentation", "models")
    if channels != 3:
        raise InputError(f"torchvision's {function} takes images of 3 channels, not {channels}")
    extra = {"aux_loss": aux_loss} if function.startswith("deeplab") else {}
    if aux_loss and not extra:
        raise InputError(f"{function} has no auxiliary head: leave out aux_loss")
    try:
        return getattr(segmentation, function)(
            weights=None, weights_backbone=backbone_weights, num_classes=num_classes, **extra
        )
    except (ValueError, KeyError) as error:
        raise InputError(f"torchvision cannot build {function} with {backbone_weights!r}: {error}") from error


def smp_network(
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    architecture: str,
    encoder: str = "resnet34",
    encoder_weights: str | None = None,
) -> nn.Module:
    """One of segmentation_models_pytorch's networks; returns ``b k h w``.

    Args:
        num_classes: classes.
        channels: of the images.
        image_size: multiples of 32, or what the architecture asks for.
        architecture: as that library names it in small letters: unet, fpn, deeplabv3plus and so on.
        encoder: its name there.
        encoder_weights: weights for the encoder, which are downloaded; None gives fresh ones.

    Raises:
        InputError: the library is missing, or does not know the arguments.
    """
    library = _imported("segmentation_models_pytorch", "segmentation")
    try:
        return library.create_model(
            architecture, encoder_name=encoder, encoder_weights=encoder_weights, in_channels=channels,
            classes=num_classes,
        )  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"segmentation_models_pytorch cannot build {architecture} on {encoder} with {channels} channels "
            f"({str(error)[:150]}...): see its documentation for what it has"
        ) from error


def _imported(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"this network is one of {package}, which cannot be imported ({error}): pip install 'dreamstill[{extra}]'"
        ) from error
