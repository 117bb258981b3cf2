"""Network and images of ``dreamstill train``, checked before anything is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dreamstill.data.image_set import ImageSet
from dreamstill.data.load import load_images, normalisation
from dreamstill.engine import Given
from dreamstill.errors import InputError
from dreamstill.networks.load import resolve
from dreamstill.networks.network import Network, copied, materialise
from dreamstill.networks.output_check import check_output
from dreamstill.runs.inputs import Inputs
from dreamstill.runs.settings import TrainSettings
from dreamstill.tasks import task_of
from dreamstill.tasks.checks import check_batch, check_set, load_scored, loaded_size, numbered, warn_of_overlap


def training_inputs(settings: TrainSettings) -> Inputs:
    """Network and images of ``dreamstill train``."""
    assert settings.data is not None
    images = load_images(
        settings.data, "train", root=settings.data_root, image_size=settings.set_size or settings.image_size,
        channels=settings.channels, limit=settings.limit,
    )  # fmt: skip
    if images.labels is None:
        raise InputError(f"{settings.data} has no labels: training needs a label column or class folders")
    torch.manual_seed(settings.seed)
    network = resolve_network(settings, images)
    loaded_size(settings.set_size, network.image_size)
    check_output(network, role="network")
    check_set(images, network)
    check_batch(network, settings.batch_size)
    if settings.batch_size > len(images):
        raise InputError(
            f"batches of {settings.batch_size} cannot be made of {len(images)} images: give a smaller --batch-size"
        )
    test = load_scored(network, settings.data, settings.split, root=settings.data_root, set_size=settings.set_size)
    warn_of_overlap(settings.data, settings.data, test)
    given = Given(network, network, images.pixels, images.labels, task=task_of(network))
    return Inputs(given, test, real_name=images.name)


def resolve_network(settings: TrainSettings, images: ImageSet) -> Network:
    """The network with the set's own facts."""
    mean, std = normalisation(images)
    size = settings.image_size if settings.set_size is not None else list(images.pixels.shape[2:])
    facts: dict[str, Any] = {
        "num_classes": len(images.classes), "image_size": size,
        "channels": images.pixels.shape[1], "mean": mean, "std": std,
    }  # fmt: skip
    given = settings.network
    if isinstance(given, Network):
        return copied(given)
    classes = None if numbered(images) else images.classes
    if isinstance(given, nn.Module):
        network = Network(copied(given), classes=classes, **facts)
        materialise(network)
        return network
    network = resolve(given, None, kwargs=settings.network_args, role="network", **facts)
    network.classes = classes
    return network
