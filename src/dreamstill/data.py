"""Real images: for teachers, for evaluation and for controls. uint8 tensors, decoded once.

A set is named (``digits``, or one of :data:`KNOWN` under a root folder), or is a parquet file or folder in the
Hugging Face image layout, a folder of class folders, or ``hub:owner/name``. Sets with a label a pixel are found in the
same places, in the layouts of :mod:`dreamstill.layouts`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamstill import extras
from dreamstill.decoding import cached, decode_all, fit, sides, stack
from dreamstill.errors import InputError

KNOWN = ("mnist", "fashion-mnist", "cifar10", "cifar100", "caltech101", "collected32", "camvid")
VOID = 255  # in labels a pixel: no class, counted nowhere

# Per-channel mean and standard deviation of the training images, in [0, 1] units. MNIST and Fashion-MNIST: of the
# unpadded 28x28 images; digits: computed here from its training split; Caltech-101, CamVid: DFAD's convention.
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
SPLITS = {"train", "test", "val", "valid", "validation"}
WHOLE = "whole set"  # the split of a source that has none
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class ImageSet:
    """Images (uint8 ``n c h w``) with labels and class names.

    Labels are one an image (int64 ``n``), one a pixel (uint8 ``n h w``, with :data:`VOID`), or None. Of a source
    without splits ``split`` is :data:`WHOLE`.
    """

    pixels: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    name: str
    split: str

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, index: Tensor) -> ImageSet:
        """The images at ``index``."""
        labels = None if self.labels is None else self.labels[index]
        return ImageSet(self.pixels[index], labels, self.classes, self.name, self.split)


def load(
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
        InputError: nothing there, unreadable images, or labels outside the class range.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: take at least 1 image, or leave it out for all")
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
    """Mean and standard deviation a channel, in [0, 1] units."""
    pixels = images.pixels.transpose(0, 1).flatten(1).double() / 255
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1, correction=0).tolist())


def normalisation(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The set's usual mean and standard deviation if it has one for this many channels, else the measured ones."""
    usual = NORMALISATION.get(images.name)
    return usual if usual is not None and len(usual[0]) == images.pixels.shape[1] else channel_stats(images)


def encoded(source: str, split: str, root: str | Path | None) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all image files of a source, without labels: parquet, or a folder's images at any depth.

    Raises:
        InputError: there is no such source, or it holds no images.
    """
    place = _place(source, root)
    files = _parquet_files(place, split)
    if files is not None:
        for file in files:
            parquet_schema(file)
        return _parquet_images(files)
    base = place / split if (place / split).is_dir() else place
    paths = [f for f in sorted(base.rglob("*")) if f.suffix.lower() in SUFFIXES and f.is_file()]
    paths = [f for f in paths if not any(part.startswith(".") for part in f.relative_to(base).parts)]
    if not paths:
        raise InputError(f"{base} holds neither parquet files nor images (png, jpg, webp, bmp)")
    return ((str(f), f.read_bytes()) for f in paths)


# ---------------------------------------------------------------- where the images come from


def check_unsplit(source: Path, split: str) -> None:
    """Make sure that a split is one of the usual, where a source has none and all of it is taken.

    Raises:
        InputError: another name, a slip of the pen most likely.
    """
    if split not in SPLITS:
        raise InputError(
            f"{source} has no splits, so all of it is taken for {', '.join(sorted(SPLITS))}, and {split!r} is none of "
            "these: leave out --split"
        )


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
    from dreamstill import layouts, scenes  # they build on what is here

    place, name = _place(source, root), source if source in KNOWN else Path(source).name
    files = _parquet_files(place, split)
    maps = layouts.in_folder(place, split) if files is None else scenes.in_parquet(files)
    if maps is not None:
        return scenes.load_scenes(maps, name, WHOLE if maps.whole or place.is_file() else split, size, channels)
    if files is None:
        return _class_folders(place, name, split, size, channels)
    labels, classes, count = _parquet_labels(files)
    key = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    pixels = cached(
        (key, size, channels), lambda: stack(decode_all(_parquet_images(files), source, size, channels), count)
    )
    return ImageSet(pixels, labels, classes, name, WHOLE if place.is_file() else split)


def _place(source: str, root: str | Path | None) -> Path:
    """The file or folder that a source is in."""
    if source.startswith("hub:"):
        return _download(source.removeprefix("hub:"))
    if source in KNOWN and root is None:
        raise InputError(f"{source} is read from files: say with --data-root which folder holds {source}/*.parquet")
    place = Path(root) / source if source in KNOWN and root is not None else Path(source)
    if not place.exists():
        names = ", ".join(("digits", *KNOWN))
        raise InputError(f"there is no {place}: give a file, a folder, hub:owner/name or one of {names}")
    return place


def _parquet_files(folder: Path, split: str) -> list[Path] | None:
    """The parquet files in a place, or None when it is a folder of images."""
    every = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
    if every:
        extras.require("data", f"reading {every[0]}")
    if folder.is_file():
        check_unsplit(folder, split)
        return every
    # "train-00000-of-00002" and "train" are of the split "train"; "trainval-..." is not.
    splits = [re.sub(r"[-_.]?\d.*", "", f.stem) for f in every]
    chosen = [f for f, s in zip(every, splits, strict=True) if s == split]
    if every and not chosen:
        there = sorted(set(splits))
        raise InputError(f"{folder} has no split {split!r}: its files are of {', '.join(there)}")
    return chosen or None


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError("hub: sets need huggingface_hub: pip install 'dreamstill[hub]'") from error
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns="*.parquet"))
    except Exception as error:
        raise InputError(f"hub:{name} could not be fetched ({error}): check the name and the network") from error


def _parquet_labels(files: list[Path]) -> tuple[Tensor | None, tuple[str, ...], int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels: list[np.ndarray] = []
    count = 0
    names: tuple[str, ...] = ()
    for file in files:
        try:
            schema = parquet_schema(file)
            count += pq.read_metadata(file).num_rows
            if "label" in schema.names:
                column = pq.read_table(file, columns=["label"])["label"]
                if not pa.types.is_integer(column.type):
                    raise InputError(f"{file} has labels of type {column.type}: expected whole numbers")
                if column.null_count:
                    raise InputError(f"{file} has {column.null_count} empty labels: expected one for every image")
                labels.append(column.to_numpy())
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file} is not a readable parquet file ({error}): fetch it again") from error
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = tuple(info.get("info", {}).get("features", {}).get("label", {}).get("names", ())) or names
    if count == 0:
        raise InputError(f"{', '.join(str(f) for f in files)} has no rows: expected at least one image")
    if not labels:
        return None, names, count
    joined = torch.from_numpy(np.concatenate(labels)).long()
    return joined, names or tuple(str(i) for i in range(int(joined.max()) + 1)), count


def parquet_schema(file: Path) -> Any:
    """The schema of a file that holds images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} is not a readable parquet file ({error}): fetch it again") from error
    if "image" not in schema.names or not pa.types.is_struct(schema.field("image").type):
        columns = ", ".join(f"{f.name} ({f.type})" for f in schema)
        raise InputError(f"{file} has the columns {columns}: expected image (bytes, path), and label")
    return schema


def _parquet_images(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    import pyarrow.parquet as pq

    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=512, columns=["image"]):
            for row in batch["image"].to_pylist():
                row = row or {}
                yield str(row.get("path") or file.name), row.get("bytes") or b""


def _class_folders(folder: Path, name: str, split: str, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
    base = folder / split if (folder / split).is_dir() else folder
    names = [d.name for d in base.iterdir() if d.is_dir() and not d.name.startswith(".")]
    if base == folder and names and set(names) <= SPLITS:
        raise InputError(f"{folder} has no split {split!r}: its folders are {', '.join(sorted(names))}")
    if base == folder:
        check_unsplit(folder, split)
    # "10" comes after "9", not after "1": a label must be the teacher's class number.
    names.sort(key=(lambda n: int(n)) if all(n.isdigit() for n in names) else str)
    files = [(f, i) for i, n in enumerate(names) for f in sorted((base / n).rglob("*")) if f.suffix.lower() in SUFFIXES]
    if not files:
        raise InputError(f"{base} holds neither parquet files nor class folders with images (png, jpg, webp, bmp)")
    named = ((str(f), f.read_bytes()) for f, _ in files)
    pixels = stack(decode_all(named, str(folder), size, channels), len(files))
    split = WHOLE if base == folder else split
    return ImageSet(pixels, torch.tensor([i for _, i in files]), tuple(names), name, split)
