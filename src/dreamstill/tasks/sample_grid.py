"""Pictures of what was synthesised, for people to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dreamstill.errors import InputError

CELL = 64  # pixels of the longest side that an image may be shown with
GAP = 4
MARGIN = 12
LABEL = 140
# The sheet is transparent, so its ink must be readable on both a white and a dark page.
INK = (123, 123, 123, 255)
RULE = (123, 123, 123, 90)


class _Row(NamedTuple):
    name: str
    total: int
    images: Tensor  # uint8 (up to columns, c, h, w)


def sample_grid(
    pixels: Tensor,
    predicted: Tensor,
    num_classes: int,
    classes: Sequence[str] | None = None,
    columns: int = 10,
    max_classes: int = 20,
) -> bytes:
    """Images sorted into rows by the class they were taken for.

    Each row begins with the class's name and the number of images that fell into it, and shows its first ``columns``
    images. A class without images keeps its row and says so. Beyond ``max_classes`` classes only the most frequent are
    shown, most frequent first, and the last line says how many are left out. Images up to 64 pixels are enlarged by a
    whole factor without smoothing; larger ones are made to fit.

    Args:
        pixels: uint8 ``(n c h w)``. One channel is shown grey, three as colour, any other number as its mean, which
            the last line says.
        predicted: class of each image, integers ``(n,)`` from 0 to ``num_classes - 1``.
        num_classes: how many classes there are.
        classes: their names; "class 0", "class 1" and so on when None.
        columns: most images in a row.
        max_classes: most rows.

    Returns:
        A PNG with a transparent background.

    Raises:
        InputError: shapes, type or classes do not fit together.
    """
    _check(pixels, predicted, num_classes, classes, columns, max_classes)
    pixels, predicted = pixels.cpu(), predicted.cpu().long()
    counts = torch.bincount(predicted, minlength=num_classes)
    shown = list(range(num_classes))
    if num_classes > max_classes:
        shown = sorted(shown, key=lambda k: (-int(counts[k]), k))[:max_classes]
    names = classes if classes is not None else [f"class {k}" for k in range(num_classes)]
    rows = [_Row(names[k], int(counts[k]), pixels[predicted == k][:columns]) for k in shown]
    return _draw(rows, columns, tuple(pixels.shape[2:]), _notes(counts, shown, pixels.shape[1]))


def cell_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which an image of that size is shown on the sheet."""
    longest = max(height, width)
    if longest > CELL:
        return max(1, height * CELL // longest), max(1, width * CELL // longest)
    factor = CELL // longest
    return height * factor, width * factor


def _check(
    pixels: Tensor, predicted: Tensor, num_classes: int, classes: Sequence[str] | None, columns: int, max_classes: int
) -> None:
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or 0 in pixels.shape[1:]:
        raise InputError(f"the images are {pixels.dtype} {tuple(pixels.shape)}: expected uint8 (n, c, h, w)")
    if predicted.shape != pixels.shape[:1] or predicted.is_floating_point():
        raise InputError(
            f"the classes are {predicted.dtype} {tuple(predicted.shape)}: expected integers, one for each of the "
            f"{len(pixels)} images"
        )
    if len(predicted) and not 0 <= int(predicted.min()) <= int(predicted.max()) < num_classes:
        raise InputError(
            f"images are of the classes {int(predicted.min())} to {int(predicted.max())} and there are {num_classes}: "
            "give the number of classes that the teacher has"
        )
    if classes is not None and len(classes) != num_classes:
        raise InputError(f"{len(classes)} names were given for {num_classes} classes: give one for each, or none")
    if min(columns, max_classes, num_classes) < 1:
        raise InputError(
            f"columns is {columns}, max_classes {max_classes}, num_classes {num_classes}: they must be at least 1"
        )


def _notes(counts: Tensor, shown: list[int], channels: int) -> list[str]:
    """What the rows do not show and a reader must know."""
    notes = []
    if hidden := len(counts) - len(shown):
        empty = int((counts == 0).sum()) - sum(int(counts[k]) == 0 for k in shown)
        without = f", {'all' if empty == hidden else f'{empty:,}'} of them without an image" if empty else ""
        notes.append(f"and {hidden:,} more class{'es' if hidden > 1 else ''}{without}")
    if channels not in (1, 3):
        notes.append(f"shown: the mean of {channels} channels")
    return notes


def _draw(rows: list[_Row], columns: int, size: tuple[int, ...], notes: list[str]) -> bytes:
    height, width = cell_size(size[0], size[1])
    pitch = max(height, 40) + 2 * GAP  # two lines of label need their room beside very flat images
    sheet = Image.new(
        "RGBA",
        (MARGIN * 2 + LABEL + columns * (width + GAP) - GAP, MARGIN * 2 + pitch * len(rows) + 22 * len(notes)),
        (0, 0, 0, 0),
    )
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    for i, row in enumerate(rows):
        middle = MARGIN + i * pitch + pitch // 2
        count = f"{row.total:,} image{'' if row.total == 1 else 's'}"
        pen.text((MARGIN, middle - 2), _shortened(row.name, large), INK, large, anchor="ls")
        pen.text((MARGIN, middle + 15), count, INK, small, anchor="ls")
        left, top = MARGIN + LABEL, middle - height // 2
        if row.total == 0:
            box = (left, top, sheet.width - MARGIN - 1, top + height - 1)
            pen.rectangle(box, outline=RULE)
            pen.text((left + 12, middle), "no image of this class", INK, small, anchor="lm")
        for j, image in enumerate(row.images):
            sheet.paste(_picture(image, height, width), (left + j * (width + GAP), top))
    for i, note in enumerate(notes):
        pen.text((MARGIN, MARGIN + pitch * len(rows) + 22 * i + 14), note, INK, small, anchor="ls")
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _picture(image: Tensor, height: int, width: int) -> Image.Image:
    """One image (uint8 ``c h w``) at its size on the sheet."""
    if len(image) == 3:
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    else:
        picture = Image.fromarray(image.float().mean(0).round().to(torch.uint8).numpy())
    smaller = picture.width > width or picture.height > height
    resampling = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    return picture.convert("RGB").resize((width, height), resampling)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut with an ellipsis where it would run into the images."""
    text = " ".join(text.split())
    if font.getlength(text) <= LABEL - 8:
        return text
    while text and font.getlength(text + "…") > LABEL - 8:
        text = text[:-1]
    return text.rstrip() + "…"
