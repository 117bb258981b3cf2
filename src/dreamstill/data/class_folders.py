"""A labelled set with one folder of images per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dreamstill.data.decode import decode_all, stack
from dreamstill.data.image_set import SPLITS, SUFFIXES, WHOLE, ImageSet, check_unsplit
from dreamstill.errors import InputError
from dreamstill.messages import say

KINDS = "png, jpg, webp, bmp, tif, gif, ppm"
ORDER = "classes.txt"  # next to the class folders or the splits: their names in the order of the network's outputs


def load_folders(folder: Path, name: str, split: str, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
    """The images of all class folders. A label is the position of the class in the order of classes.

    Raises:
        InputError: there are no images, the split is missing, a class has no image, or the order does not name it.
    """
    base = folder / split if (folder / split).is_dir() else folder
    names = [d.name for d in base.iterdir() if d.is_dir() and not d.name.startswith(".")]
    if base == folder and names and set(names) <= SPLITS:
        raise InputError(f"{folder} has no split {split!r}: its folders are {', '.join(sorted(names))}")
    if base == folder:
        check_unsplit(folder, split)
    found = {n: pictures(base / n) for n in names}
    if not any(images for images, _ in found.values()):
        raise InputError(f"{base} holds neither parquet files nor class folders with images ({KINDS})")
    if empty := [n for n, (images, _) in found.items() if not images]:
        other = [f.name for n in empty for f in found[n][1]]
        seen = f", only {', '.join(other[:3])}" if other else ""
        raise InputError(
            f"{base} has no images ({KINDS}) in the class folder{'s' if len(empty) > 1 else ''} "
            f"{', '.join(sorted(empty)[:5])}{seen}: add images, or remove the folder"
        )
    loose = [f for f in sorted(base.iterdir()) if f.suffix.lower() in SUFFIXES and f.is_file()]
    say_passed_over(base, [f for _, others in found.values() for f in others], loose)
    classes = _order(names, base, folder)
    files = [(f, i) for i, n in enumerate(classes) for f in found.get(n, ([], []))[0]]
    named = ((str(f), f.read_bytes()) for f, _ in files)
    pixels = stack(decode_all(named, str(folder), size, channels), len(files))
    return ImageSet(
        pixels, torch.tensor([i for _, i in files]), tuple(classes), name, WHOLE if base == folder else split
    )


def pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a folder at any depth, and its other files. Hidden files and folders are left out of both."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    files = [f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
    images = [f for f in files if f.suffix.lower() in SUFFIXES]
    return images, [f for f in files if f.suffix.lower() not in SUFFIXES]


def say_passed_over(base: Path, others: Sequence[Path], loose: Sequence[Path] = ()) -> None:
    """Say which files are not read: ``others`` have no image's name, ``loose`` are images outside a class folder."""
    for files, why in ((others, f"no images by their names ({KINDS})"), (loose, "images in no class folder")):
        if files:
            names = ", ".join(str(f.relative_to(base)) for f in files[:5])
            more = ", ..." if len(files) > 5 else ""
            # Not on stdout, which may be JSON.
            say(f"{len(files)} files of {base} are passed over, {why}: {names}{more}", aside=True)


def _order(names: list[str], base: Path, folder: Path) -> list[str]:
    """The classes in the order of a network's outputs: that of ``classes.txt``, else sorted, numbers by value."""
    for place in (base, folder):
        if (place / ORDER).is_file():
            return _listed(place / ORDER, names)
    as_texts = sorted(names)
    if not all(n.isdigit() for n in names):
        return as_texts
    as_numbers = sorted(names, key=lambda n: (int(n), n))
    if as_numbers != as_texts:
        say(
            f"the class folders of {base} are read in the order of their numbers, {_first(as_numbers)}; torchvision's "
            f"ImageFolder sorts them as texts, {_first(as_texts)}: if the teacher was trained that way, put the names "
            f"in its order into {base / ORDER}, one a line",
            aside=True,
        )
    return as_numbers


def _listed(path: Path, names: list[str]) -> list[str]:
    try:
        listed = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): write the class folders' names into it, one per line"
        ) from error
    if len(set(listed)) < len(listed):
        twice = sorted({n for n in listed if listed.count(n) > 1})
        raise InputError(f"{path} names {', '.join(twice[:5])} more than once: name every class once")
    if unnamed := sorted(set(names) - set(listed)):
        raise InputError(
            f"{path} does not name the class folder{'s' if len(unnamed) > 1 else ''} {', '.join(unnamed[:5])}: name "
            "every class, one per line, in the order of the network's outputs"
        )
    return listed


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
