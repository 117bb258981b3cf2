"""A set of real images in memory: uint8 tensors, labels, the names of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dreamstill.errors import InputError

KNOWN = ("mnist", "fashion-mnist", "cifar10", "cifar100", "caltech101", "collected32", "camvid")
VOID = 255  # in labels per pixel: no class, counted nowhere
SPLITS = {"train", "test", "val", "valid", "validation"}
WHOLE = "whole set"  # the split of a source that has none
# File names of pictures that Pillow reads. torchvision's ImageFolder takes no others.
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".gif", ".jp2", ".avif", ".tga", ".pcx",
}  # fmt: skip


@dataclass(frozen=True)
class ImageSet:
    """Images (uint8 ``n c h w``) with labels and class names.

    There is one label per image (int64 ``n``), one per pixel (uint8 ``n h w``, with :data:`VOID`), or None. For a
    source without splits, ``split`` is :data:`WHOLE`.
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


# ---------------------------------------------------------------- where the images come from


def check_unsplit(source: Path, split: str) -> None:
    """Make sure that a split has one of the usual names, if a source has no splits and all of it is taken.

    Raises:
        InputError: an unknown split, most likely a typo.
    """
    if split not in SPLITS:
        raise InputError(
            f"{source} has no splits, so all of it is taken for {', '.join(sorted(SPLITS))}, but not for {split!r}: "
            "leave out --split"
        )
