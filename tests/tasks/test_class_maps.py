import io
from itertools import pairwise

import numpy as np
import torch
from PIL import Image

from dreamstill.data.image_set import VOID
from dreamstill.tasks import class_maps


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def test_colours_differ():
    colours = class_maps.palette(40)
    assert len(set(colours)) == 40
    apart = [sum(abs(a - b) for a, b in zip(x, y, strict=True)) for x, y in pairwise(colours)]
    assert min(apart) > 60


def test_a_comparison_shows_every_map_in_its_classes_colours():
    pixels = torch.full((2, 3, 90, 180), 200, dtype=torch.uint8)
    truth = torch.full((2, 90, 180), VOID)
    other = torch.ones(2, 90, 180, dtype=torch.long)
    sheet = opened(class_maps.comparison_sheet(pixels, [("truth", truth), ("student", other)], 3, ["a", "b", "c"]))
    shown = {tuple(p[:3]): n for p, n in zip(*np.unique(sheet.reshape(-1, 4), axis=0, return_counts=True), strict=True)}
    each = 2 * 90 * 180
    assert shown[(200, 200, 200)] == each
    assert shown[class_maps.palette(3)[1]] >= each  # and its swatch in the legend
    assert shown[(0, 0, 0)] > each  # void, and what is transparent
    assert class_maps.palette(3)[0] in shown  # in the legend only


def test_an_overlay_stands_beside_its_image():
    pixels = torch.zeros(5, 1, 8, 16, dtype=torch.uint8)
    sheet = opened(class_maps.overlay_sheet(pixels, torch.zeros(5, 8, 16, dtype=torch.uint8), 4, None, columns=2))
    mixed = tuple(round(0.6 * v) for v in class_maps.palette(4)[0])
    found = (np.abs(sheet[..., :3].astype(int) - mixed).max(2) <= 1) & (sheet[..., 3] == 255)
    assert found.sum() == 5 * 90 * 180


def test_names_of_another_set_are_not_used():
    content = class_maps.overlay_sheet(
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8).long(), 4, ["a"]
    )
    assert opened(content).shape[2] == 4
