"""Real images for teachers, evaluation and controls, as uint8 tensors that are decoded once.

A set is given by a name (``digits``, or one of :data:`KNOWN` under a root folder), as a parquet file or folder in the
Hugging Face image layout, as a folder of class folders, or as ``hub:owner/name``. Sets with a label per pixel are found
in the same places, in the layouts of :mod:`dreamstill.data.segmentation_folders`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreamstill import extras
from dreamstill.data import class_folders, segmentation, segmentation_folders
from dreamstill.data.decode import cached, decode_all, fit, stack
from dreamstill.data.image_set import KNOWN, WHOLE, ImageSet
from dreamstill.data.parquet import parquet_files, parquet_images, parquet_labels, parquet_schema
from dreamstill.errors import InputError
from dreamstill.networks.network import sides

# Mean and standard deviation of the training images per channel, in [0, 1] units. MNIST and Fashion-MNIST: those of
# the unpadded 28x28 images. digits: computed here from its training split. Caltech-101, CamVid: DFAD's convention.
NORMALISATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3758,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "caltech101": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "collected32": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "camvid": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def load_images(
    source: str,
    split: str = "test",
    *,
    root: str | Path | None = None,
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Load a set of real images.

    Args:
        source: see the module's text.
        split: ``train`` or ``test``, or what the set has.
        root: folder that holds the named sets.
        image_size: side or (height, width). 28x28 images asked for at 32 are padded with zeros, as the literature
            does; others are resized on the short side and cropped in the centre.
        channels: 1 makes grey (luminance), 3 repeats grey; None keeps what the first image has.
        limit: only the first ``limit`` images, at least 1.

    Raises:
        InputError: the source does not exist, images cannot be read, or labels are outside the class range.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: take at least 1 image, or leave it out to take all")
    shape = None if image_size is None else sides("image_size", image_size)
    if source == "digits":
        found = _digits(split, shape, channels)
    else:
        found = _from_files(source, split, root, shape, channels)
    if limit is not None and limit < len(found):
        found = found.subset(torch.arange(limit))
    labels = found.labels if found.labels is None or found.labels.dim() == 1 else None  # maps were looked at in scenes
    if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < len(found.classes):
        raise InputError(
            f"{source} has labels from {int(labels.min())} to {int(labels.max())} and {len(found.classes)} "
            "classes: labels must be 0 to classes - 1"
        )
    return found


def channel_stats(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in [0, 1] units."""
    pixels = images.pixels.transpose(0, 1).flatten(1).double() / 255
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1, correction=0).tolist())


def normalisation(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The set's usual mean and standard deviation, if known for this many channels, else the measured ones."""
    usual = NORMALISATION.get(images.name)
    return usual if usual is not None and len(usual[0]) == images.pixels.shape[1] else channel_stats(images)


def encoded(source: str, split: str, root: str | Path | None) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all images of a source, without labels: from parquet, or from a folder at any depth.

    Raises:
        InputError: there is no such source, or it holds no images.
    """
    place = _place(source, root)
    files = parquet_files(place, split)
    if files is not None:
        for file in files:
            parquet_schema(file)
        return parquet_images(files)
    base = place / split if (place / split).is_dir() else place
    paths, others = class_folders.pictures(base)
    if not paths:
        raise InputError(f"{base} holds neither parquet files nor images ({class_folders.KINDS})")
    class_folders.say_passed_over(base, others)
    return ((str(f), f.read_bytes()) for f in paths)


def _digits(split: str, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
    extras.require("demo", "the set of digits")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise InputError(f"digits has the splits train and test, not {split!r}")
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    index = train_test_split(np.arange(len(pixels)), test_size=500, stratify=bunch.target, random_state=0)
    chosen = np.sort(index[split == "test"])
    arrays = (fit(Image.fromarray(p), size or (8, 8), channels or 1) for p in pixels[chosen])
    labels = torch.from_numpy(bunch.target[chosen]).long()
    return ImageSet(stack(arrays, len(chosen)), labels, tuple("0123456789"), "digits", split)


def _from_files(
    source: str, split: str, root: str | Path | None, size: tuple[int, int] | None, channels: int | None
) -> ImageSet:
    place, name = _place(source, root), source if source in KNOWN else Path(source).name
    files = parquet_files(place, split)
    maps = segmentation_folders.in_folder(place, split) if files is None else segmentation.in_parquet(files)
    if maps is not None:
        return segmentation.load_scenes(maps, name, WHOLE if maps.whole or place.is_file() else split, size, channels)
    if files is None:
        return class_folders.load_folders(place, name, split, size, channels)
    labels, classes, count = parquet_labels(files)
    key = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    pixels = cached(
        (key, size, channels), lambda: stack(decode_all(parquet_images(files), source, size, channels), count)
    )
    return ImageSet(pixels, labels, classes, name, WHOLE if place.is_file() else split)


def _place(source: str, root: str | Path | None) -> Path:
    """The file or folder that a source is in."""
    if source.startswith("hub:"):
        return _download(source.removeprefix("hub:"))
    if source in KNOWN and root is None:
        raise InputError(f"{source} is read from files: name the folder that holds {source}/*.parquet with --data-root")
    place = Path(root) / source if source in KNOWN and root is not None else Path(source)
    if not place.exists():
        names = ", ".join(("digits", *KNOWN))
        raise InputError(f"there is no {place}: give a file, a folder, hub:owner/name or one of {names}")
    return place


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError("hub: sets need huggingface_hub: pip install 'dreamstill[hub]'") from error
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns="*.parquet"))
    except Exception as error:
        raise InputError(f"hub:{name} could not be fetched ({error}): check the name and the network") from error
