"""The folder layouts of sets with a label per pixel, recognised by their content.

They are CamVid as in SegNet's tutorial (``train/`` and ``trainannot/``), lists of pairs (``train.txt``), NYUv2 with 13
classes, Pascal VOC, Cityscapes, and plain ``images/`` and ``labels/`` folders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamstill.data.image_set import SPLITS, SUFFIXES, VOID, check_unsplit
from dreamstill.data.segmentation import UNKNOWN, Found, table_of
from dreamstill.errors import InputError

CAMVID = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
          "Bicyclist")  # fmt: skip
NYU13 = ("Bed", "Books", "Ceiling", "Chair", "Floor", "Furniture", "Objects", "Picture", "Sofa", "Table", "TV", "Wall",
         "Window")  # fmt: skip
VOC = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
       "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
       "tvmonitor")  # fmt: skip
CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
_CITYSCAPES_IDS = 34  # its label ids are 0 to 33; all but the 19 above are void

_PAIRED = (("images", "labels"), ("images", "annotations"), ("images", "masks"), ("image", "label"))


def in_folder(folder: Path, split: str) -> Found | None:
    """A set in a folder with one of the layouts, or None if the folder has none of them.

    Raises:
        InputError: the layout lacks the split, or images and labels do not pair up.
    """
    for look in (_voc, _cityscapes, _segnet, _nyu, _listed, _plain):
        found = look(folder, split)
        if found is not None:
            return found
    return None


def _voc(folder: Path, split: str) -> Found | None:
    if not (folder / "SegmentationClass").is_dir():
        return None
    lists = folder / "ImageSets" / "Segmentation"
    name = _split(split, [f.stem for f in sorted(lists.glob("*.txt"))], folder)
    stems = (lists / f"{name}.txt").read_text().split()
    images, labels = _stems(folder / "JPEGImages"), _stems(folder / "SegmentationClass")
    missing = [s for s in stems if s not in images and s not in labels]
    if missing:
        raise InputError(f"{folder} holds neither image nor label of {_five(missing)}, which {name}.txt lists")
    ours = {s: images[s] for s in stems if s in images}
    return _matched(ours, {s: labels[s] for s in stems if s in labels}, folder, VOC, table_of(len(VOC)))


def _cityscapes(folder: Path, split: str) -> Found | None:
    images, labels = folder / "leftImg8bit", folder / "gtFine"
    if not images.is_dir() or not labels.is_dir():
        return None
    name = _split(split, sorted(d.name for d in images.iterdir() if d.is_dir()), folder)
    ours = {f.stem.removesuffix("_leftImg8bit"): f for f in _pictures(images / name)}
    theirs = {
        f.stem.removesuffix("_gtFine_labelIds"): f
        for f in _pictures(labels / name)
        if f.stem.endswith("_gtFine_labelIds")
    }
    table = np.full(256, UNKNOWN, dtype=np.int16)
    table[:_CITYSCAPES_IDS] = VOID
    table[VOID] = VOID
    table[list(CITYSCAPES)] = np.arange(len(CITYSCAPES))
    return _matched(ours, theirs, folder, tuple(CITYSCAPES.values()), table)


def _segnet(folder: Path, split: str) -> Found | None:
    annotated = sorted(d.name.removesuffix("annot") for d in folder.glob("*annot") if d.is_dir())
    if not annotated:
        return None
    name = _split(split, annotated, folder)
    ours, theirs = _stems(folder / name), _stems(folder / f"{name}annot")
    return _matched(ours, theirs, folder, CAMVID, _camvid_table())


def _nyu(folder: Path, split: str) -> Found | None:
    labels = {d.name.removesuffix("_labels_13"): d for d in folder.glob("*_labels_13") if d.is_dir()}
    if labels:  # train_labels_13/new_nyu_class13_0003.png beside nyu_train_rgb/nyu_rgb_0003.png
        name = _split(split, sorted(labels), folder)
        images = next((d for d in (folder / f"nyu_{name}_rgb", folder / f"{name}_rgb") if d.is_dir()), None)
        if images is None:
            raise InputError(f"{folder} holds {name}_labels_13 and no nyu_{name}_rgb: put the images there")
        return _matched(_numbers(images), _numbers(labels[name]), folder, NYU13, table_of(13, (0, VOID), 1))
    if (folder / "seg13").is_dir():  # image/train/0003.png beside seg13/train/0003.png
        name = _split(split, sorted(d.name for d in (folder / "seg13").iterdir() if d.is_dir()), folder)
        ours, theirs = _stems(folder / "image" / name), _stems(folder / "seg13" / name)
        return _matched(ours, theirs, folder, NYU13, table_of(13, (0, VOID), 1))
    return None


def _listed(folder: Path, split: str) -> Found | None:
    """Lines with an image and its label, as in CamVid's ``train.txt``. The paths may begin above the folder."""
    files = {f.stem: f for f in sorted(folder.glob("*.txt")) if f.name != "classes.txt"}
    lines = {n: [line.split() for line in f.read_text().splitlines() if line.strip()] for n, f in files.items()}
    lines = {n: rows for n, rows in lines.items() if rows and all(len(r) == 2 for r in rows)}
    if not lines:
        return None
    name = _split(split, sorted(lines), folder)
    ours: dict[str, Path] = {}
    theirs: dict[str, Path] = {}
    for image, label in lines[name]:
        for path, side in ((image, ours), (label, theirs)):
            file = _below(folder, path)
            if file is not None:
                side[image] = file
    missing = [image for image, _ in lines[name] if image not in ours and image not in theirs]
    if missing:
        raise InputError(f"{folder} holds neither image nor label of {_five(missing)}, which {name}.txt lists")
    classes = _named(folder)
    return _matched(ours, theirs, folder, classes or CAMVID, table_of(len(classes)) if classes else _camvid_table())


def _named(folder: Path) -> tuple[str, ...] | None:
    """The classes that ``classes.txt`` names, one per line."""
    text = folder / "classes.txt"
    names = text.read_text().split("\n") if text.exists() else []
    return tuple(n.strip() for n in names if n.strip()) or None


def _plain(folder: Path, split: str) -> Found | None:
    for images, labels in _PAIRED:
        ours, theirs = folder / images, folder / labels
        # If there are splits, the wanted one must be among them: the whole set would be scored on training images.
        before = [d.name for d in sorted(folder.iterdir()) if (d / images).is_dir() and (d / labels).is_dir()]
        inside = [d.name for d in sorted(theirs.iterdir()) if (ours / d.name).is_dir()] if theirs.is_dir() else []
        inside = [name for name in inside if name in (*SPLITS, split)]
        if before:
            name = _split(split, before, folder)
            ours, theirs = folder / name / images, folder / name / labels
        elif inside:
            name = _split(split, inside, folder)
            ours, theirs = ours / name, theirs / name
        if ours.is_dir() and theirs.is_dir() and (_pictures(theirs) or _pictures(ours)):
            classes = _named(folder)
            table = table_of(len(classes) if classes else VOID)
            if whole := not before and not inside:
                check_unsplit(folder, split)
            return replace(_matched(_stems(ours), _stems(theirs), folder, classes, table), whole=whole)
    return None


def _camvid_table() -> np.ndarray:
    return table_of(len(CAMVID), (len(CAMVID), VOID))


def _split(wanted: str, there: Sequence[str], folder: Path) -> str:
    """The split's name; a set without a ``test`` split (its labels are kept back) is scored on ``val``."""
    if wanted in there:
        return wanted
    if wanted == "test" and "val" in there:
        return "val"
    raise InputError(f"{folder} has no split {wanted!r}: it has {', '.join(there) or 'none'}")


def _pictures(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.rglob("*")) if f.suffix.lower() in SUFFIXES and f.is_file()]


def _stems(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for f in _pictures(folder):
        if f.stem in found:
            names = [str(path.relative_to(folder)) for path in (found[f.stem], f)]
            raise InputError(f"{folder} holds {' and '.join(names)}: give every image a name of its own")
        found[f.stem] = f
    return found


def _numbers(folder: Path) -> dict[str, Path]:
    """Pictures by the number at the end of their names."""
    found = {}
    for f in _pictures(folder):
        if match := re.search(r"(\d+)$", f.stem):
            found[f"{int(match[1]):08d}"] = f
    return found


def _below(folder: Path, path: str) -> Path | None:
    """The file below the folder that the longest end of a path names."""
    parts = Path(path).parts
    return next((f for i in range(len(parts)) if (f := folder.joinpath(*parts[i:]).resolve()).is_file()), None)


def _five(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _matched(
    images: dict[str, Path], labels: dict[str, Path], folder: Path, classes: tuple[str, ...] | None, table: np.ndarray
) -> Found:
    """Pairs by their names. A file without a partner is an error."""
    alone = sorted(set(images) ^ set(labels))
    if alone or not images:
        without = [f"{n} (no {'label' if n in images else 'image'})" for n in alone]
        raise InputError(
            f"{folder} has {len(images)} images and {len(labels)} labels that do not pair up: "
            f"{_five(without) or 'there is none'}. Give every image one label of the same name"
        )
    pairs = [(n, images[n], labels[n]) for n in sorted(images)]
    key = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for _, a, b in pairs for f in (a, b)]
    return Found(lambda: ((n, a.read_bytes(), b.read_bytes()) for n, a, b in pairs), classes, table, key)
