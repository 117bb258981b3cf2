"""Sets with a label per pixel: images and maps are decoded, resized and cropped in the same way. Also from parquet.

The layouts of folders are in :mod:`dreamstill.data.segmentation_folders`. Labels become classes from 0, and void
becomes :data:`dreamstill.data.image_set.VOID`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dreamstill.data.decode import cached, decode, fit, padded, scaled_box, stack
from dreamstill.data.image_set import VOID, ImageSet
from dreamstill.data.parquet import parquet_schema
from dreamstill.errors import InputError, first_line

UNKNOWN = -1  # in a table: a value that this layout's labels cannot have


@dataclass
class Found:
    """A recognised set, of which nothing is decoded yet."""

    pairs: Callable[[], Iterator[tuple[str, bytes, bytes]]]  # name, image file, label file
    classes: tuple[str, ...] | None  # None: as many as the labels show
    table: np.ndarray  # int16 256: the class of each value in a label file
    key: Any  # changes when the files do
    whole: bool = False  # whether the layout has no splits here


def table_of(classes: int, void: Sequence[int] = (VOID,), first: int = 0) -> np.ndarray:
    """The meaning of label values (int16 256): ``classes`` from ``first`` on, some void, all others wrong."""
    table = np.full(256, UNKNOWN, dtype=np.int16)
    table[first : first + classes] = np.arange(min(classes, 256 - first))
    table[list(void)] = VOID
    return table


def load_scenes(found: Found, source: str, split: str, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
    """Images (uint8 ``n c h w``) with labels (uint8 ``n h w``), resized and cropped in the same way, labels by nearest.

    Raises:
        InputError: a file cannot be read, image and label differ in size, or a label is outside the classes.
    """
    key = (found.key, found.table.tolist(), size, channels)
    decoded: list[tuple[Tensor, Tensor]] = []

    def both(part: int) -> Tensor:
        if not decoded:
            decoded.append(_decoded(found, source, size, channels))
        return decoded[0][part]

    pixels, labels = (cached((key, kind), partial(both, part)) for part, kind in enumerate(("image", "label")))
    if found.classes is None and not bool(((labels > 0) & (labels != VOID)).any()):
        raise InputError(
            f"the labels of {source} ({split}) hold nothing but 0 and {VOID}, which is void: number the classes from "
            "0, so two classes as 0 and 1, or name them in classes.txt"
        )
    classes = found.classes or tuple(str(i) for i in range(_highest(labels) + 1))
    return ImageSet(pixels, labels, classes, source, split)


def _highest(labels: Tensor) -> int:
    known = labels[labels != VOID]
    return max(1, int(known.max())) if len(known) else 1


def _decoded(found: Found, source: str, size: tuple[int, int] | None, channels: int | None) -> tuple[Tensor, Tensor]:
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for name, image, label in found.pairs():
        picture, mask = decode(image), decode(label)
        if picture is None or mask is None:
            what = "image" if picture is None else "label"
            raise InputError(f"the {what} of {name} in {source} cannot be read: remove the pair, or mend it")
        if mask.mode not in ("L", "P", "1", "I", "I;16"):
            raise InputError(
                f"the label of {name} in {source} is a {mask.mode} picture, expected one channel whose values are "
                "class numbers. Turn coloured labels into numbers first"
            )
        if mask.size != picture.size:
            raise InputError(
                f"{name} in {source} is {picture.width}x{picture.height} and its label {mask.width}x{mask.height}: "
                "give pairs of the same size"
            )
        size = size or (picture.height, picture.width)
        images.append(fit(picture, size, channels or 3))
        values = np.asarray(mask).astype(np.uint8) if mask.mode == "1" else np.asarray(mask)
        labels.append(_fitted(_classes(values, found.table, name, source), size))
    if not images:
        raise InputError(f"{source} holds no pairs of image and label")
    return stack(images, len(images)), stack(labels, len(labels))


def _classes(values: np.ndarray, table: np.ndarray, name: str, source: str) -> np.ndarray:
    """Label values (``h w``) as classes and void (uint8)."""
    present = np.unique(values)
    wrong = [int(v) for v in present if not 0 <= v < len(table) or table[v] == UNKNOWN]
    if wrong:
        known = [int(v) for v in np.flatnonzero((table != UNKNOWN) & (table != VOID))]
        void = ", ".join(str(v) for v in np.flatnonzero(table == VOID)[:3])
        raise InputError(
            f"the label of {name} in {source} holds {', '.join(map(str, wrong[:5]))}, outside the class range "
            f"{known[0]} to {known[-1]} (void: {void}): give the labels that belong to these classes"
        )
    return table[values].astype(np.uint8)


def _fitted(classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map with the size and the crop of its image. Values are never mixed."""
    mask = Image.fromarray(classes)
    if padded(mask, size):
        return np.pad(classes, 2, constant_values=VOID)
    if (mask.height, mask.width) != size:
        scaled, box = scaled_box(mask.width, mask.height, size)
        mask = mask.resize(scaled, Image.Resampling.NEAREST).crop(box)
    return np.asarray(mask)


# ---------------------------------------------------------------- parquet


def in_parquet(files: Sequence[Path]) -> Found | None:
    """A set in parquet, if its files have an ``annotation`` column; ``class_names`` in their record are the classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = parquet_schema(files[0])
    if "annotation" not in schema.names:
        return None
    try:
        names = json.loads((schema.metadata or {}).get(b"class_names", b"null"))
        readable = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
    except (ValueError, RecursionError):
        readable = False
    if not readable:
        raise InputError(f"{files[0]} has a damaged record of class_names: expected a list of texts")
    if names and names[-1].lower() == "void":  # the last value, as CamVid has it
        classes: tuple[str, ...] | None = tuple(names[:-1])
        table = table_of(len(names) - 1, (len(names) - 1, VOID))
    else:
        classes = tuple(names) if names else None
        table = table_of(len(names) if names else VOID)

    def pairs() -> Iterator[tuple[str, bytes, bytes]]:
        for file in files:
            try:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=64, columns=["image", "annotation"]):
                    for image, label in zip(batch["image"].to_pylist(), batch["annotation"].to_pylist(), strict=True):
                        image, label = (v if isinstance(v, dict) else {"bytes": v} for v in (image, label))
                        yield str(image.get("path") or file.name), image.get("bytes") or b"", label.get("bytes") or b""
            except (OSError, ValueError, pa.ArrowException) as error:  # a page is read when its turn comes
                raise InputError(f"{file} is damaged ({first_line(error)}): fetch it again") from error

    return Found(pairs, classes, table, [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])
