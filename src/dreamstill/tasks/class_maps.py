"""Pictures of class maps: over synthetic images, and beside real ones with the truth."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dreamstill.data.image_set import VOID
from dreamstill.tasks.sample_grid import GAP, INK, MARGIN

WIDTH = 180  # pixels an image is shown with
_SWATCH = 12
_LINE = 20
_VOID_COLOUR = (0, 0, 0)


def palette(k: int) -> list[tuple[int, int, int]]:
    """``k`` colours that neighbours in number tell apart: hues a golden angle apart, in three brightnesses."""
    found = []
    for i in range(k):
        r, g, b = colorsys.hsv_to_rgb((0.58 + i * 0.381966) % 1, (0.75, 0.5, 0.95)[i % 3], (0.9, 0.75, 0.6)[i % 3])
        found.append((round(255 * r), round(255 * g), round(255 * b)))
    return found


def overlay_sheet(
    pixels: Tensor, predicted: Tensor, num_classes: int, classes: Sequence[str] | None, rows: int = 4, columns: int = 4
) -> bytes:
    """Images, each beside itself with its class map over it, and a legend.

    Args:
        pixels: uint8 ``n c h w``; the first ``rows * columns`` are shown.
        predicted: classes, integers ``n h w``.
        num_classes: how many there are.
        classes: their names.
        rows: most rows.
        columns: most images in a row.

    Returns:
        A PNG with a transparent background.
    """
    shown = min(len(pixels), rows * columns)
    grid = []
    for start in range(0, shown, columns):
        line = []
        for i in range(start, min(start + columns, shown)):
            picture, coloured = _picture(pixels[i]), _coloured(predicted[i], num_classes)
            line += [picture, Image.blend(picture, coloured, 0.6)]
        grid.append(line)
    return _sheet(grid, [], _legend(predicted[:shown], num_classes, classes))


def comparison_sheet(
    pixels: Tensor, columns: Sequence[tuple[str, Tensor]], num_classes: int, classes: Sequence[str] | None
) -> bytes:
    """One row an image: the image, then each of the named maps (integers ``n h w``, void black); a legend below.

    Args:
        pixels: uint8 ``n c h w``.
        columns: ``(name, map)``, as ``("truth", labels)``.
        num_classes: how many classes there are.
        classes: their names.

    Returns:
        A PNG with a transparent background.
    """
    grid = [
        [_picture(image), *(_coloured(maps[i], num_classes) for _, maps in columns)] for i, image in enumerate(pixels)
    ]
    every = torch.cat([maps.reshape(-1) for _, maps in columns])
    return _sheet(grid, ["image", *(name for name, _ in columns)], _legend(every, num_classes, classes))


def _picture(image: Tensor) -> Image.Image:
    """One image (uint8 ``c h w``) as RGB; of other than 1 or 3 channels their mean."""
    if len(image) == 3:
        return Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    return Image.fromarray(image.cpu().float().mean(0).round().to(torch.uint8).numpy()).convert("RGB")


def _coloured(classes: Tensor, k: int) -> Image.Image:
    """A map of classes (``h w``) in their colours."""
    table = torch.tensor([*palette(k), *[_VOID_COLOUR] * (256 - k)], dtype=torch.uint8)
    return Image.fromarray(table[classes.cpu().long()].numpy())


def _legend(shown: Tensor, k: int, classes: Sequence[str] | None) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and colour of every class, with its share of the pixels shown; void where there is some."""
    counts = torch.bincount(shown.reshape(-1).long(), minlength=256)
    # A set may name fewer classes than the network tells apart.
    names = classes if classes is not None and len(classes) == k else [f"class {i}" for i in range(k)]
    total = max(1, int(counts[:k].sum()))
    entries = [(f"{n} {100 * int(c) / total:.0f} %", p) for n, c, p in zip(names, counts[:k], palette(k), strict=True)]
    return [*entries, ("void", _VOID_COLOUR)] if counts[VOID] and k <= VOID else entries


def _sheet(
    grid: Sequence[Sequence[Image.Image]], heads: Sequence[str], legend: Sequence[tuple[str, tuple[int, int, int]]]
) -> bytes:
    first = grid[0][0]
    width, height = WIDTH, max(1, round(WIDTH * first.height / first.width))
    columns = max(len(line) for line in grid)
    per_line = max(1, (columns * (width + GAP)) // 150)
    top = MARGIN + (_LINE if heads else 0)
    lines = -(-len(legend) // per_line)
    below = top + len(grid) * (height + GAP) + GAP
    sheet = Image.new(
        "RGBA", (2 * MARGIN + columns * (width + GAP) - GAP, below + lines * _LINE + MARGIN), (0, 0, 0, 0)
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for j, head in enumerate(heads):
        pen.text((MARGIN + j * (width + GAP), MARGIN + 12), head, INK, font, anchor="ls")
    for i, line in enumerate(grid):
        for j, picture in enumerate(line):
            smaller = picture.width > width
            shown = picture.resize((width, height), Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)
            sheet.paste(shown, (MARGIN + j * (width + GAP), top + i * (height + GAP)))
    for i, (name, colour) in enumerate(legend):
        left, upper = MARGIN + i % per_line * 150, below + i // per_line * _LINE
        pen.rectangle((left, upper, left + _SWATCH, upper + _SWATCH), fill=(*colour, 255), outline=INK)
        pen.text((left + _SWATCH + 6, upper + _SWATCH), name, INK, font, anchor="ls")
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()
