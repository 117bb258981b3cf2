"""Class folders: every picture that can be read is, nothing is passed over unsaid, and the order is known."""

import numpy as np
import pytest
from helpers.networks import tiny_network
from PIL import Image

from dreamstill.data.collected import load_collected
from dreamstill.data.load import load_images
from dreamstill.errors import InputError
from dreamstill.tasks.checks import load_scored


def picture(path, value, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((8, 8), value, np.uint16 if mode == "I;16" else np.float32 if mode == "F" else np.uint8)
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "TIF", "tiff", "bmp", "gif", "ppm", "pgm", "webp", "jpeg", "jp2", "tga"])
def test_what_pillow_reads_is_read(tmp_path, suffix):
    picture(tmp_path / "a" / f"x.{suffix}", 200)
    picture(tmp_path / "b" / "y.png", 10)
    found = load_images(str(tmp_path), image_size=8, channels=1)
    assert found.labels.tolist() == [0, 1]
    assert abs(int(found.pixels[0].float().mean()) - 200) <= 3
    assert len(load_collected(str(tmp_path), image_size=(8, 8), channels=1)) == 2


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_16_bits_keep_their_scale(tmp_path, suffix):
    picture(tmp_path / "a" / f"x.{suffix}", 51400, "I;16")
    (tmp_path / "a" / "y.pgm").write_bytes(b"P5 8 8 65535\n" + np.full(64, 51400, ">u2").tobytes())
    assert load_images(str(tmp_path), image_size=8, channels=1).pixels.float().mean((1, 2, 3)).tolist() == [200, 200]


def test_floating_point_pictures_are_named_and_not_guessed_at(tmp_path):
    picture(tmp_path / "a" / "x.tif", 0.5, "F")
    with pytest.raises(InputError, match=r"1 images of .* cannot be read, first .*x\.tif"):
        load_images(str(tmp_path))


def test_a_class_without_an_image_is_an_error(tmp_path):
    picture(tmp_path / "a" / "x.png", 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "y.heic").write_bytes(b"?")
    with pytest.raises(InputError, match=r"no images .* in the class folder b, only y.heic"):
        load_images(str(tmp_path))


def test_files_that_are_passed_over_are_counted_and_named(tmp_path, capsys):
    picture(tmp_path / "a" / "x.png", 1)
    (tmp_path / "a" / "y.heic").write_bytes(b"?")
    picture(tmp_path / "loose.png", 1)
    load_images(str(tmp_path))
    said = capsys.readouterr().err
    assert "1 files of" in said
    assert "passed over, no images by their names" in said
    assert "a/y.heic" in said
    assert "images in no class folder: loose.png" in said


# ---------------------------------------------------------------- the order of classes


def numbered_folders(path, k=12):
    for i in range(k):
        picture(path / str(i) / "x.png", 10 * i)
    return path


def test_numbers_whose_two_orders_differ_are_said(tmp_path, capsys):
    found = load_images(str(numbered_folders(tmp_path)))
    assert found.classes == tuple(str(i) for i in range(12))
    said = capsys.readouterr().err
    assert "order of their numbers, 0, 1, 2, 3, 4, ..." in said
    assert "sorts them as texts, 0, 1, 10, 11, 2, ..." in said
    load_images(str(numbered_folders(tmp_path / "few", 9)))
    assert "as texts" not in capsys.readouterr().err


@pytest.mark.parametrize("beside", ["test", "."])
def test_classes_txt_gives_the_order(tmp_path, capsys, beside):
    numbered_folders(tmp_path / "test")
    order = sorted(str(i) for i in range(12))
    (tmp_path / beside / "classes.txt").write_text("\n".join(order))
    found = load_images(str(tmp_path))
    assert found.classes == tuple(order)
    brightness = {int(y): int(x.float().mean()) for x, y in zip(found.pixels, found.labels, strict=True)}
    assert brightness == {i: 10 * int(name) for i, name in enumerate(order)}
    assert "as texts" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"), [("0\n1\n", "does not name the class folder 2"), ("0\n1\n2\n1\n", "names 1 more than once")]
)
def test_classes_txt_must_name_every_folder_once(tmp_path, text, words):
    numbered_folders(tmp_path, 3)
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=words):
        load_images(str(tmp_path))


def test_a_network_that_knows_its_classes_puts_a_set_into_their_order(tmp_path, capsys):
    for name in ("ant", "bee", "cat"):
        picture(tmp_path / name / "x.png", len(name))
    network = tiny_network((3, 4), 0)
    network.classes = ("cat", "ant", "dog", "bee")
    found = load_scored(network, str(tmp_path), "test", root=None)
    assert found.labels.tolist() == [1, 3, 0]
    assert found.classes == network.classes
    assert "put into the order of convnet" in capsys.readouterr().out
    picture(tmp_path / "elk" / "x.png", 3)
    found = load_scored(network, str(tmp_path), "test", root=None)
    assert found.labels.tolist() == [0, 1, 2, 3]
    assert "name their classes differently" in capsys.readouterr().out
