"""Sets of real images for a network: loaded in its form, and refused where they do not belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dreamstill.data.image_set import VOID, WHOLE, ImageSet
from dreamstill.data.load import load_images
from dreamstill.errors import InputError, first_line
from dreamstill.messages import say
from dreamstill.networks.network import Network, plain_copy, sides
from dreamstill.networks.probes import single_valued_bn
from dreamstill.tasks import metrics, task_of


def loaded_size(set_size: int | Sequence[int] | None, size: tuple[int, int]) -> tuple[int, int]:
    """The sides (h, w) that a set's images are resized to: ``set_size`` if there is one, else a network's ``size``.

    Raises:
        InputError: the set's images would be smaller than the network's.
    """
    if set_size is None:
        return size
    h, w = sides("set_size", set_size)
    if h < size[0] or w < size[1]:
        raise InputError(
            f"set_size is {h}x{w} and the images of the network {size[0]}x{size[1]}: give sides at least as large"
        )
    return (h, w)


def load_scored(
    network: Network,
    source: str,
    split: str,
    *,
    root: str | None,
    set_size: int | Sequence[int] | None = None,
    limit: int | None = None,
) -> ImageSet:
    """A set to score a network on, in its channels and at its size, or what its task takes of larger images.

    Args:
        network: whose images, task and classes they must be of.
        source: as in :func:`dreamstill.data.load.load_images`.
        split: as there.
        root: as there.
        set_size: side, or height and width, that the images are resized to; without it the network's.
        limit: only the first so many images.

    Raises:
        InputError: the set cannot be loaded or is not for this network.
    """
    images = load_images(
        source, split, root=root, image_size=loaded_size(set_size, network.image_size), channels=network.channels,
        limit=limit,
    )  # fmt: skip
    images = in_order(images, network)
    check_set(images, network)
    if numbered(images):  # the last classes do not occur in the set
        images = replace(images, classes=tuple(str(i) for i in range(network.num_classes)))
    scored = task_of(network).scored(images, network.image_size)
    check_size(network, (scored.pixels.shape[2], scored.pixels.shape[3]))
    return scored


def warn_of_overlap(trained: str, scored: str, test: ImageSet | None) -> None:
    """Say so where a set is scored on the very images that are trained on, because its source has no splits."""
    if test is not None and test.split == WHOLE and Path(trained).resolve() == Path(scored).resolve():
        say(
            f"{scored} has no splits: what is trained on it is scored on the same images, and the scores say nothing "
            "of others; for a test set put its images into folders train and test"
        )


def check_size(network: Network, size: tuple[int, int]) -> None:
    """Make sure that a network takes images of another size (h, w) than its own, which whole images are scored at.

    Raises:
        InputError: it fails on a blank one.
    """
    if size == network.image_size:
        return
    copied = plain_copy(network)
    try:
        with torch.no_grad():
            copied(torch.zeros(1, network.channels, *size))
    except Exception as error:  # whatever somebody's forward() raises
        raise InputError(
            f"{network.name} fails on images of {size[0]}x{size[1]}, which set_size brings the set to, with "
            f"{first_line(error)!r}: "
            "give a set_size that it takes, or leave it out"
        ) from error


def check_set(images: ImageSet, network: Network) -> None:
    """Make sure that a set's labels are of a network's task and classes.

    Raises:
        InputError: they are not.
    """
    if images.labels is None:
        return
    name = task_of(network).name
    theirs = "segmentation" if images.labels.dim() == 3 else "classification"
    if name != theirs:
        kind = {"classification": "one label an image", "segmentation": "one label a pixel"}
        raise InputError(
            f"{images.name} has {kind[theirs]} and {network.name} is a network for {name}: give a set with {kind[name]}"
        )
    metrics.check_labels(images.labels, network.num_classes)
    if images.labels.dim() == 3 and not bool((images.labels != VOID).any()):
        raise InputError(f"every pixel of {images.name}, {images.split}, is void: give a split with labelled pixels")
    if len(images.classes) > network.num_classes:
        raise InputError(
            f"{images.name} has {len(images.classes)} classes and {network.name} {network.num_classes}: "
            "it is another task"
        )
    # Labels of a map are the network's numbers whatever is named. Of an image they are places in the list of names, and
    # names that are not just these numbers do not say which of the network's classes are left out.
    if images.labels.dim() == 1 and len(images.classes) < network.num_classes and not numbered(images):
        raise InputError(
            f"{images.name} names {len(images.classes)} classes and {network.name} tells {network.num_classes} apart, "
            "so its labels cannot be matched: give a set that names every class, in the network's order"
        )


def in_order(images: ImageSet, network: Network) -> ImageSet:
    """A labelled set with its classes in the order of a network that knows theirs by name; said if that changes it.

    A set that has names which the network does not know stays as it is, which is said too.
    """
    ours, theirs = network.classes, images.classes
    if ours is None or ours == theirs or numbered(images) or images.labels is None or images.labels.dim() != 1:
        return images
    if not set(theirs) <= set(ours):
        own, other = next((a, b) for a, b in zip((*ours, "none"), (*theirs, "none"), strict=False) if a != b)
        say(
            f"{images.name} and {network.name} name their classes differently, {other} and {own} first: the labels are "
            "taken as the numbers of the network's outputs"
        )
        return images
    say(f"the classes of {images.name} are put into the order of {network.name}, by their names")
    place = torch.tensor([ours.index(name) for name in theirs])
    return replace(images, labels=place[images.labels], classes=ours)


def numbered(images: ImageSet) -> bool:
    """Whether the classes are called 0, 1, 2, ... as in a set without names: a label is then a class's number."""
    return images.classes == tuple(str(i) for i in range(len(images.classes)))


def check_batch(network: Network, batch_size: int) -> None:
    """Refuse to train on batches that leave a batch norm one value a channel.

    Raises:
        InputError: the batch is one image and the network has a batch norm after pooling or a linear layer.
    """
    if batch_size < 2 and (pooled := single_valued_bn(network)):
        raise InputError(
            f"batch_size is {batch_size} and {network.name} normalises one value a channel and image over the batch "
            f"({', '.join(pooled[:3])}): give a batch_size of at least 2"
        )
