import io

import pytest
import torch
from PIL import Image, ImageDraw

from dreamstill.errors import InputError
from dreamstill.tasks.sample_grid import GAP, LABEL, MARGIN, cell_size, sample_grid


def opened(*args, **kwargs):
    return Image.open(io.BytesIO(sample_grid(*args, **kwargs)))


def corner(row, column, height, width):
    pitch = max(height, 40) + 2 * GAP
    return MARGIN + LABEL + column * (width + GAP), MARGIN + row * pitch + pitch // 2 - height // 2


def block(sheet, row, column, height, width):
    """What the sheet shows at a row and column, as (h, w, 3)."""
    x, y = corner(row, column, height, width)
    part = sheet.convert("RGB").crop((x, y, x + width, y + height))
    return torch.tensor(list(part.tobytes())).view(height, width, 3)


@pytest.fixture
def said(monkeypatch):
    """Every text that is drawn."""
    texts = []
    draw = ImageDraw.ImageDraw.text

    def spy(self, xy, text, *args, **kwargs):
        texts.append(text)
        return draw(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return texts


@pytest.mark.parametrize(
    ("size", "shown"),
    [((8, 8), (64, 64)), ((28, 28), (56, 56)), ((32, 32), (64, 64)), ((16, 8), (64, 32)), ((64, 64), (64, 64)),
     ((224, 224), (64, 64)), ((100, 200), (32, 64)), ((1, 500), (1, 64))],
)  # fmt: skip
def test_images_are_shown_at_a_size_that_can_be_seen(size, shown):
    assert cell_size(*size) == shown


def test_the_sheet_is_as_large_as_its_rows_and_columns():
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    sheet = opened(pixels, torch.tensor([0, 1, 2, 2]), 3, columns=5)
    assert sheet.format == "PNG"
    assert sheet.size == (2 * MARGIN + LABEL + 5 * 64 + 4 * GAP, 2 * MARGIN + 3 * (64 + 2 * GAP))


def test_every_image_is_in_the_row_of_its_class_pixel_for_pixel():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    predicted = torch.tensor([2, 0, 2, 1, 2, 0])
    sheet = opened(pixels, predicted, 3, columns=2)
    # The third image of class 2 has no column left.
    for row, column, index in [(0, 0, 1), (0, 1, 5), (1, 0, 3), (2, 0, 0), (2, 1, 2)]:
        expected = pixels[index].permute(1, 2, 0).repeat_interleave(8, 0).repeat_interleave(8, 1)
        assert torch.equal(block(sheet, row, column, 64, 64), expected.long())


def test_grey_images_are_grey():
    pixels = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8) * 4
    shown = block(opened(pixels, torch.tensor([0]), 1), 0, 0, 64, 64)
    assert torch.equal(shown, pixels[0, 0].repeat_interleave(8, 0).repeat_interleave(8, 1)[..., None].expand(64, 64, 3))


def test_other_numbers_of_channels_are_averaged_and_said_so(said):
    pixels = torch.tensor([10, 20, 30, 60], dtype=torch.uint8).view(1, 4, 1, 1).expand(1, 4, 8, 8)
    shown = block(opened(pixels, torch.tensor([0]), 1), 0, 0, 64, 64)
    assert shown.unique().tolist() == [30]
    assert "shown: the mean of 4 channels" in said


def test_a_large_image_keeps_its_brightness():
    pixels = torch.zeros(1, 1, 128, 128, dtype=torch.uint8)
    pixels[..., ::2] = 200  # a smaller picture of thin stripes is their mean, not one of the two
    assert block(opened(pixels, torch.tensor([0]), 1), 0, 0, 64, 64).unique().tolist() == [100]


def test_labels_name_and_count(said):
    sample_grid(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1]), 3, ["cat", "dog", "fox"])
    assert said == ["cat", "2 images", "dog", "1 image", "fox", "0 images", "no image of this class"]


def test_classes_without_names_get_numbers(said):
    sample_grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([1]), 2)
    assert {"class 0", "class 1"} <= set(said)


def test_an_empty_row_shows_no_image():
    pixels = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    sheet = opened(pixels, torch.tensor([0, 2]), 3)
    x, y = corner(1, 3, 64, 64)
    assert sheet.crop((x, y + 2, x + 64, y + 60)).getextrema()[3] == (0, 0)  # nothing but the page behind


def test_of_many_classes_the_most_frequent_are_shown(said):
    predicted = torch.cat([torch.full((3,), 700), torch.full((5,), 41), torch.tensor([7, 9, 11])])
    pixels = torch.zeros(len(predicted), 1, 8, 8, dtype=torch.uint8)
    sheet = opened(pixels, predicted, 1000, max_classes=4)
    assert [t for t in said if t.startswith("class")] == ["class 41", "class 700", "class 7", "class 9"]
    # Of the five classes with images one is not shown.
    assert said[-1] == "and 996 more classes, 995 of them without an image"
    assert sheet.height == 2 * MARGIN + 4 * 72 + 22


def test_it_is_said_when_all_that_is_left_out_is_empty(said):
    sample_grid(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), 5, max_classes=2)
    assert said[-1] == "and 3 more classes, all of them without an image"


def test_when_all_classes_fit_nothing_more_is_claimed(said):
    sample_grid(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20), 20)
    assert not any("more" in t for t in said)


def test_a_long_name_does_not_run_into_the_images(said):
    name = "a class with a name\nthat is far too long for its column"
    sheet = opened(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]), 1, [name])
    assert said[0].startswith("a class")
    assert said[0].endswith("…")
    assert "\n" not in said[0]
    ink = sheet.getchannel("A").crop((MARGIN, 0, MARGIN + LABEL, sheet.height)).getbbox()
    assert ink[2] <= LABEL - 4


def test_no_images_at_all_is_still_a_sheet(said):
    sample_grid(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), 2)
    assert said.count("no image of this class") == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.zeros(1, 1, 8, 8), torch.tensor([0]), 1), "expected uint8"),
        ((torch.zeros(1, 8, 8, dtype=torch.uint8), torch.tensor([0]), 1), "expected uint8"),
        ((torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]), 1), "one for each of the 2"),
        ((torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0.0]), 1), "integers"),
        ((torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([3]), 3), "there are 3"),
        ((torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]), 2, ["a"]), "1 names were given for 2 classes"),
        ((torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]), 1, None, 0), "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        sample_grid(*arguments)
