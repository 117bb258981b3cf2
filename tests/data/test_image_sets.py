"""Real images: what is read from where, how it is fitted, and what is refused."""

import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.images import noise, parquet, png
from sklearn.datasets import load_digits

from dreamstill.data import load
from dreamstill.data.image_set import WHOLE, ImageSet
from dreamstill.data.load import channel_stats, encoded, load_images, normalisation
from dreamstill.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMSTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---------------------------------------------------------------- digits


def test_digits_are_split_once_and_for_all():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test)) == (1297, 500)
    assert test.pixels.shape == (500, 1, 8, 8)
    assert test.pixels.dtype == torch.uint8
    assert test.pixels.max() == 255
    assert test.classes == tuple("0123456789")
    assert torch.equal(test.pixels, load_images("digits", "test").pixels)
    assert test.labels.bincount().min() >= 48  # stratified
    # Every image of scikit-learn's set is in one of the two, with its label.
    bunch = load_digits()
    scaled = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    whole = sorted((p.tobytes(), int(y)) for p, y in zip(scaled, bunch.target, strict=True))
    both = sorted((p.numpy().tobytes(), int(y)) for s in (train, test) for p, y in zip(s.pixels, s.labels, strict=True))
    assert whole == both
    assert len({p for p, _ in whole}) == 1797  # all differ, so the two are disjoint


def test_digits_in_another_shape():
    shaped = load_images("digits", "test", image_size=16, channels=3, limit=7)
    assert shaped.pixels.shape == (7, 3, 16, 16)
    assert len(shaped.labels) == 7
    assert torch.equal(shaped.pixels[:, 0], shaped.pixels[:, 2])


# ---------------------------------------------------------------- parquet


def test_parquet_in_the_hugging_face_layout(tmp_path):
    arrays = [noise(6, 5, 3, seed=i) for i in range(5)]
    parquet(tmp_path / "set/data/train-00000-of-00002.parquet", arrays[:3], [2, 0, 1], ["cat", "dog", "eel"])
    parquet(tmp_path / "set/data/train-00001-of-00002.parquet", arrays[3:], [1, 1], ["cat", "dog", "eel"])
    parquet(tmp_path / "set/data/trainval-00000-of-00001.parquet", arrays[:1], [0], ["cat", "dog", "eel"])
    found = load_images(str(tmp_path / "set"), "train")
    assert torch.equal(found.pixels, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
    assert found.labels.tolist() == [2, 0, 1, 1, 1]
    assert found.classes == ("cat", "dog", "eel")
    assert (found.name, found.split) == ("set", "train")
    subset = found.subset(torch.tensor([4, 0]))
    assert subset.labels.tolist() == [1, 2]
    assert torch.equal(subset.pixels[1], found.pixels[0])
    assert load_images(str(tmp_path / "set"), "train", limit=2).labels.tolist() == [2, 0]


def test_a_named_set_is_found_under_the_root(tmp_path):
    parquet(tmp_path / "mnist/test-00000-of-00001.parquet", [noise(28, 28)], [1], ["a", "b"])
    found = load_images("mnist", root=tmp_path, image_size=32)
    assert found.name == "mnist"
    assert normalisation(found) == ((0.1307,), (0.3081,))
    with pytest.raises(InputError, match="--data-root"):
        load_images("mnist")


def test_parquet_without_labels_or_without_names(tmp_path):
    assert load_images(parquet(tmp_path / "a.parquet", [noise(4, 4)])).labels is None
    assert load_images(parquet(tmp_path / "b.parquet", [noise(4, 4)] * 2, [0, 2])).classes == ("0", "1", "2")


def test_a_split_that_is_not_there(tmp_path):
    parquet(tmp_path / "set/test-00000-of-00001.parquet", [noise(4, 4)], [0])
    with pytest.raises(InputError, match="no split 'val': its files belong to test"):
        load_images(str(tmp_path / "set"), "val")
    with pytest.raises(InputError, match="splits train and test, not 'val'"):
        load_images("digits", "val")


def test_a_source_without_splits_is_taken_whole_and_says_so(tmp_path):
    file = parquet(tmp_path / "a.parquet", [noise(4, 4)], [0])
    folder = tmp_path / "set" / "cat"
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(png(noise(4, 4)))
    for source in (file, str(tmp_path / "set")):
        assert load_images(source, "test").split == load_images(source, "train").split == WHOLE
        with pytest.raises(InputError, match=r"has no splits.*but not for 'tset'"):
            load_images(source, "tset")


def test_labels_must_be_class_numbers(tmp_path):
    with pytest.raises(InputError, match="labels from 0 to 2 and 2 classes"):
        load_images(parquet(tmp_path / "a.parquet", [noise(4, 4)] * 2, [0, 2], ["a", "b"]))
    with pytest.raises(InputError, match="labels from -1"):
        load_images(parquet(tmp_path / "b.parquet", [noise(4, 4)] * 2, [-1, 0], ["a", "b"]))
    with pytest.raises(InputError, match=r"has labels of type string: expected whole numbers"):
        load_images(parquet(tmp_path / "c.parquet", [noise(4, 4)], ["cat"]))
    with pytest.raises(InputError, match=r"has no rows: expected at least one image"):
        load_images(parquet(tmp_path / "e.parquet", [], pa.array([], pa.int64())))
    with pytest.raises(InputError, match="1 empty labels"):
        load_images(parquet(tmp_path / "d.parquet", [noise(4, 4)] * 2, [None, 1]))


def test_parquet_that_is_none_or_holds_something_else(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="not a readable parquet"):
        load_images(str(tmp_path / "a.parquet"))
    for column in ({"img": [1]}, {"image": [1]}):
        pq.write_table(pa.table(column), tmp_path / "b.parquet")
        with pytest.raises(InputError, match=r"columns im.* \(int64\): expected image"):
            load_images(str(tmp_path / "b.parquet"))


def test_unreadable_images_are_counted_and_named(tmp_path):
    broken = png(noise(9, 9))[:60]
    # Pillow raises OSError, SyntaxError (garbage for a chunk's name) or its bomb error: none of them can be read.
    whole = png(noise(9, 9))
    at = whole.index(b"IDAT")
    shortened = whole[: at - 4] + b"\x00\x00\x00\x0a" + whole[at:]
    bomb = png(noise(9, 9)).replace(b"\x00\x00\x00\x09\x00\x00\x00\x09", b"\x00\x0f\xff\xff\x00\x0f\xff\xff")
    arrays = [noise(9, 9), broken, b"no image", None, bomb, shortened, b"", b""]
    with pytest.raises(InputError, match=r"7 images of .* cannot be read, first 1\.png, 2\.png, a\.parquet, 4\.png"):
        load_images(parquet(tmp_path / "a.parquet", arrays, [0] * len(arrays)))


# ---------------------------------------------------------------- folders


def test_class_folders_with_numbers_for_names_are_sorted_as_numbers(tmp_path):
    for name in ("10", "9", "2"):
        (tmp_path / "set/test" / name).mkdir(parents=True)
        (tmp_path / "set/test" / name / "x.png").write_bytes(png(np.full((4, 4), int(name), np.uint8)))
    (tmp_path / "set/test/2/readme.txt").write_text("not an image")
    (tmp_path / "set/test/.thumbnails").mkdir()
    found = load_images(str(tmp_path / "set"))
    assert found.classes == ("2", "9", "10")
    assert found.pixels[:, 0, 0, 0].tolist() == [2, 9, 10]
    assert found.labels.tolist() == [0, 1, 2]
    assert load_images(str(tmp_path / "set/test")).labels.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="no split 'val': its folders are test"):
        load_images(str(tmp_path / "set"), "val")


def test_class_folders_with_words_for_names(tmp_path):
    for name in ("b", "a", "10"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.PNG").write_bytes(png(noise(4, 4)))
    assert load_images(str(tmp_path / "set")).classes == ("10", "a", "b")
    (tmp_path / "set/a/y.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"1 images of .* cannot be read, first .*a/y\.jpg"):
        load_images(str(tmp_path / "set"))


def test_a_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="neither parquet files nor class folders"):
        load_images(str(tmp_path))


def test_a_name_that_nobody_knows():
    with pytest.raises(InputError, match=r"there is no cifar11: .*digits, mnist, .*cifar10"):
        load_images("cifar11")


# ---------------------------------------------------------------- fitting


def one(tmp_path, array, **kwargs):
    return load_images(parquet(tmp_path / "one.parquet", [array], [0]), **kwargs).pixels[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_28_pixels_asked_for_at_32_are_padded(tmp_path, channels):
    array = noise(28, 28)
    got = one(tmp_path, array, image_size=32, channels=channels)
    assert got.shape == (channels, 32, 32)
    for plane in got.numpy():
        assert np.array_equal(plane[2:30, 2:30], array)
        assert plane.sum() == array.sum()  # nothing but zeros around


def test_others_are_resized_on_the_short_side_and_cropped_in_the_centre(tmp_path):
    array = np.zeros((8, 24), np.uint8)
    array[:, 8:16] = 200  # exactly the part that stays
    assert (one(tmp_path, array, image_size=8) == 200).all()
    half = one(tmp_path, array, image_size=4)
    assert half.shape == (1, 4, 4)
    assert (half[0, :, 1:3] == 200).all()
    assert one(tmp_path, noise(9, 7), image_size=(12, 20)).shape == (1, 12, 20)
    assert one(tmp_path, noise(5, 7)).shape == (1, 5, 7)


def test_grey_and_colour(tmp_path):
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[..., 0] = 255
    assert (one(tmp_path, colour, channels=1) == 76).all()  # luminance: 0.299 of red
    assert one(tmp_path, colour)[:, 0, 0].tolist() == [255, 0, 0]
    grey = noise(3, 3)
    assert torch.equal(one(tmp_path, grey, channels=3), torch.from_numpy(grey).expand(3, 3, 3))
    with pytest.raises(InputError, match="1 or 3 channels, not 2"):
        one(tmp_path, grey, channels=2)


def test_16_bit_pictures_are_scaled_and_not_clipped(tmp_path):
    deep = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    assert one(tmp_path, deep).tolist() == [[[0, 100], [200, 255]]]
    assert one(tmp_path, deep, channels=3)[2].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one(limit):
    with pytest.raises(InputError, match="at least 1"):
        load_images("digits", limit=limit)


# ---------------------------------------------------------------- cache


def test_the_second_load_decodes_nothing(tmp_path, cache, monkeypatch):
    path = parquet(tmp_path / "a.parquet", [noise(4, 4)], [0])
    first = load_images(path)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(load, "decode_all", None)
        assert torch.equal(load_images(path).pixels, first.pixels)
    assert load_images(path, image_size=2).pixels.shape == (1, 1, 2, 2)  # another size is another entry
    parquet(tmp_path / "a.parquet", [noise(5, 5)], [0])
    assert load_images(path).pixels.shape == (1, 1, 5, 5)  # and so is another file of the same name


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"garbage" * 9, lambda b: b[:-3], lambda b: b[:20]])
def test_a_corrupt_cache_is_made_again(tmp_path, cache, damage):
    path = parquet(tmp_path / "a.parquet", [noise(4, 4)], [0])
    first = load_images(path)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert torch.equal(load_images(path).pixels, first.pixels)
    assert entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    path = parquet(tmp_path / "a.parquet", [noise(4, 4)], [0])
    assert len(load_images(path)) == 1
    cache.unlink()

    def full(file, array):
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert len(load_images(path)) == 1
    assert list(cache.iterdir()) == []  # and no half of it stays


# ---------------------------------------------------------------- statistics and the hub


def test_channel_statistics():
    arrays = noise(7, 3, 5, 4)
    images = ImageSet(torch.from_numpy(arrays), None, (), "mine", "test")
    mean, std = channel_stats(images)
    assert mean == pytest.approx(tuple((arrays / 255).mean((0, 2, 3))))
    assert std == pytest.approx(tuple((arrays / 255).std((0, 2, 3))))
    assert normalisation(images) == (mean, std)


def test_the_usual_statistics_of_digits_are_those_of_their_training_images():
    train = load_images("digits", "train")
    for usual, measured in zip(normalisation(train), channel_stats(train), strict=True):
        assert usual == pytest.approx(measured, abs=1e-4)
    grey_as_colour = load_images("digits", "train", channels=3, limit=50)
    assert normalisation(grey_as_colour) == channel_stats(grey_as_colour)


def test_the_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'dreamstill\[hub\]'"):
        load_images("hub:owner/name")


def test_the_hub(tmp_path, monkeypatch):
    def fetch(name, **_):
        if name != "owner/name":
            raise RuntimeError("404")
        return str(tmp_path / "snapshot")

    parquet(tmp_path / "snapshot/data/test-00000-of-00001.parquet", [noise(4, 4)], [0])
    package = type(sys)("huggingface_hub")
    package.snapshot_download = fetch
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    assert len(load_images("hub:owner/name")) == 1
    with pytest.raises(InputError, match=r"hub:owner/other could not be fetched \(404\)"):
        load_images("hub:owner/other")


def test_the_cache_tells_channels_apart(tmp_path):
    path = parquet(tmp_path / "a.parquet", [noise(4, 4, 3)], [0])
    assert load_images(path, channels=3).pixels.shape[1] == 3
    assert load_images(path, channels=1).pixels.shape[1] == 1


def test_the_cache_follows_a_file_of_the_same_size(tmp_path):
    shades = [png(np.full((4, 4), v, np.uint8)) for v in (10, 20)]
    found = []
    for second, shade in enumerate(shades):
        path = parquet(tmp_path / "a.parquet", [shade], [0])
        os.utime(path, (second, second))  # some file systems count in coarse ticks
        found.append((os.stat(path).st_size, load_images(path).pixels.unique().tolist()))
    assert found[0][0] == found[1][0]
    assert [pixels for _, pixels in found] == [[10], [20]]


def test_the_hub_is_asked_for_the_parquet_files_of_a_data_set(tmp_path, monkeypatch):
    asked = []
    package = type(sys)("huggingface_hub")
    package.snapshot_download = lambda name, **how: asked.append(how) or str(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    parquet(tmp_path / "test.parquet", [noise(4, 4)], [0])
    load_images("hub:owner/name")
    assert asked == [{"repo_type": "dataset", "allow_patterns": "*.parquet"}]


def test_a_tall_image_is_cropped_in_the_centre_too(tmp_path):
    array = np.zeros((24, 8), np.uint8)
    array[8:16] = 200
    path = parquet(tmp_path / "one.parquet", [array], [0])
    assert (load_images(path, image_size=8).pixels == 200).all()


@pytest.mark.parametrize("kind", ["classes", "maps"])
def test_a_named_set_is_found_under_its_root_in_folders_too(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "root" / ("mnist" if kind == "classes" else "camvid")
    for name in ("test/0/a.png", "test/1/b.png") if kind == "classes" else ("test/a.png", "testannot/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(np.zeros((8, 8), np.uint8)))
    found = load_images(folder.name, "test", root=tmp_path / "root")
    assert (len(found), found.name) == (2 if kind == "classes" else 1, folder.name)
    assert len(list(encoded(folder.name, "test", tmp_path / "root"))) == (2 if kind == "classes" else 1)
