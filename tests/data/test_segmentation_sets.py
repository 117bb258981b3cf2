"""Sets with a label a pixel: parquet and the folder layouts, made here; what does not fit is refused."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.datasets import Cityscapes
from torchvision.models.segmentation import FCN_ResNet50_Weights

from dreamstill.cli import main
from dreamstill.data import segmentation, segmentation_folders
from dreamstill.data.image_set import VOID, WHOLE
from dreamstill.data.load import load_images
from dreamstill.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMSTILL_CACHE", str(tmp_path / "cache"))


def encoded(array, **kwargs):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **kwargs)
    return buffer.getvalue()


def image(seed=0, h=12, w=16):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def mask(*values, h=12, w=16):
    """A map in which the values stand in vertical bands."""
    return np.array(values, dtype=np.uint8)[(np.arange(w) * len(values) // w)][None].repeat(h, 0)


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def parquet(path, rows, names=("sky", "road", "Void")):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        key: pa.array([{"bytes": encoded(row[i]), "path": f"{j}.png"} for j, row in enumerate(rows)], struct)
        for i, key in enumerate(("image", "annotation"))
    }
    table = pa.table(columns).replace_schema_metadata({"class_names": json.dumps(names)} if names else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


# ---------------------------------------------------------------- parquet


def test_parquet_with_an_annotation(tmp_path):
    parquet(tmp_path / "camvid" / "test-00000-of-00001.parquet", [(image(i), mask(0, 1, 2, 255)) for i in range(3)])
    found = load_images("camvid", "test", root=tmp_path)
    assert found.pixels.shape == (3, 3, 12, 16)
    assert torch.equal(found.pixels[0], torch.from_numpy(image(0)).permute(2, 0, 1))
    assert found.labels.dtype == torch.uint8
    assert found.labels[0, 0].tolist() == [0] * 4 + [1] * 4 + [VOID] * 8
    assert (found.classes, found.name) == (("sky", "road"), "camvid")
    assert torch.equal(load_images("camvid", "test", root=tmp_path).labels, found.labels)  # from the cache
    assert len(load_images("camvid", "test", root=tmp_path, limit=2).labels) == 2


def test_image_and_label_are_resized_and_cropped_alike(tmp_path):
    value = mask(0, 1, 2, 3, 4, 5, 6, 7, h=18, w=24)
    shown = np.stack([value * 30] * 3, axis=2)
    parquet(tmp_path / "test.parquet", [(shown, value)], names=[str(i) for i in range(8)])
    found = load_images(str(tmp_path), "test", image_size=[8, 12])  # halved to 9 x 12, then a row is cut off
    assert found.pixels.shape[2:] == found.labels.shape[1:] == (8, 12)
    assert set(found.labels.unique().tolist()) <= set(range(8))  # nearest: nothing between two classes
    assert float((found.pixels[0, 0].float() / 30 - found.labels[0].float()).abs().max()) < 0.75


def test_annotations_as_bare_bytes(tmp_path):
    names = json.dumps(["sky", "road", "Void"])
    table = pa.table({"image": [{"bytes": encoded(image()), "path": "a.png"}], "annotation": [encoded(mask(0, 1))]})
    pq.write_table(table.replace_schema_metadata({"class_names": names}), tmp_path / "train.parquet")
    assert load_images(str(tmp_path), "train").labels[0, 0].tolist() == [0] * 8 + [1] * 8


def test_one_channel_is_grey(tmp_path):
    parquet(tmp_path / "test.parquet", [(image(), mask(0, 1))])
    assert load_images(str(tmp_path), "test", channels=1).pixels.shape == (1, 1, 12, 16)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((image(), mask(0, 7)), r"label of 0.png in \S+ holds 7, outside the class range 0 to 1 \(void: 2, 255\)"),
        ((image(), image()), "RGB picture, expected one channel whose values are class numbers"),
        ((image(), mask(0, 1, h=6)), "0.png in .* is 16x12 and its label 16x6"),
    ],
)
def test_wrong_labels_in_parquet(tmp_path, row, words):
    parquet(tmp_path / "test.parquet", [row])
    with pytest.raises(InputError, match=words):
        load_images(str(tmp_path), "test")


def test_labels_that_cannot_be_read(tmp_path):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    good, bad = {"bytes": encoded(image()), "path": "a"}, {"bytes": b"no picture", "path": "b"}
    table = pa.table({"image": pa.array([good], struct), "annotation": pa.array([bad], struct)})
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"the label of a in .* cannot be read"):
        load_images(str(tmp_path), "test")


# ---------------------------------------------------------------- folders


def segnet(root, split="test"):
    for i in range(2):
        put(root / split / f"0001TP_{i}.png", image(i))
        put(root / f"{split}annot" / f"0001TP_{i}.png", mask(0, 10, 11, 255))


def listed(root):
    for i in range(2):
        put(root / "test" / f"a{i}.png", image(i))
        put(root / "marks" / f"a{i}.png", mask(0, 10, 11, 255))
    lines = [f"/SegNet/CamVid/test/a{i}.png /SegNet/CamVid/marks/a{i}.png" for i in range(2)]
    (root / "test.txt").write_text("\n".join(lines) + "\n")


def nyu_meta(root):
    for i in (3, 12):
        put(root / "nyu_test_rgb" / f"nyu_rgb_{i:04d}.png", image(i))
        put(root / "test_labels_13" / f"new_nyu_class13_{i:04d}.png", mask(1, 13, 0, 255))


def nyu(root):
    for i in range(2):
        put(root / "image" / "test" / f"{i:04d}.png", image(i))
        put(root / "seg13" / "test" / f"{i:04d}.png", mask(1, 13, 0, 255))


def voc(root):
    names = ["2007_000032", "2007_000039", "2007_000063"]
    for i, name in enumerate(names):
        put(root / "JPEGImages" / f"{name}.jpg", image(i))
    for name in names[:2]:
        palette = Image.frombytes("P", (16, 12), mask(0, 20, 255, 255).tobytes())
        palette.putpalette(list(range(256)) * 3)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        palette.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names[:2]))
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000063\n2007_000099\n")


def cityscapes(root):
    for i in range(2):
        stem = f"aachen_{i:06d}_000019"
        put(root / "leftImg8bit" / "val" / "aachen" / f"{stem}_leftImg8bit.png", image(i))
        put(root / "gtFine" / "val" / "aachen" / f"{stem}_gtFine_labelIds.png", mask(7, 33, 0, 6))
        put(root / "gtFine" / "val" / "aachen" / f"{stem}_gtFine_color.png", image(i))


def plain(root):
    for i in range(2):
        put(root / "test" / "images" / f"{i}.png", image(i))
        put(root / "test" / "labels" / f"{i}.png", mask(0, 2, 255, 255))


LAYOUTS = {
    segnet: (11, "Sky", 0, 10), listed: (11, "Sky", 0, 10), nyu_meta: (13, "Bed", 0, 12), nyu: (13, "Bed", 0, 12),
    voc: (21, "background", 0, 20), cityscapes: (19, "road", 0, 18), plain: (3, "0", 0, 2),
}  # fmt: skip


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda f: f.__name__)
def test_layouts_are_recognised_and_read(make, tmp_path):
    make(tmp_path)
    count, name, low, high = LAYOUTS[make]
    found = load_images(str(tmp_path), "test")
    assert found.pixels.shape == (2, 3, 12, 16)
    assert (len(found.classes), found.classes[0]) == (count, name)
    assert found.labels[1, 3].tolist() == [low] * 4 + [high] * 4 + [VOID] * 8
    shown = torch.from_numpy(image(3 if make is nyu_meta else 0)).permute(2, 0, 1)
    if make is not voc:  # its images are JPEG
        assert torch.equal(found.pixels[0], shown)


def test_class_names_of_plain_folders(tmp_path):
    plain(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\nhouse\n")
    assert load_images(str(tmp_path), "test").classes == ("sky", "road", "tree", "house")
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(InputError, match="holds 2, outside the class range 0 to 1"):
        load_images(str(tmp_path), "test")


def test_what_does_not_pair_up_is_named(tmp_path):
    segnet(tmp_path)
    for i in range(7):
        put(tmp_path / "test" / f"lonely{i}.png", image(i))
    with pytest.raises(InputError, match="9 images and 2 labels that do not pair up") as caught:
        load_images(str(tmp_path), "test")
    assert str(caught.value).count("(no label)") == 5
    assert "lonely4 (no label) and 2 more" in str(caught.value)
    put(tmp_path / "testannot" / "other.png", mask(0))
    for file in (tmp_path / "test").glob("lonely*"):
        file.unlink()
    with pytest.raises(InputError, match=r"other \(no image\)"):
        load_images(str(tmp_path), "test")


def test_what_a_list_names_and_the_folder_lacks(tmp_path):
    voc(tmp_path)
    with pytest.raises(InputError, match=r"neither image nor label of 2007_000099, which train\.txt lists"):
        load_images(str(tmp_path), "train")
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000063\n")
    with pytest.raises(InputError, match=r"2007_000063 \(no label\)"):
        load_images(str(tmp_path), "train")


def test_two_files_of_one_name(tmp_path):
    segnet(tmp_path)
    Image.fromarray(image()).save(tmp_path / "test" / "0001TP_0.jpg")
    with pytest.raises(InputError, match=r"holds 0001TP_0\.jpg and 0001TP_0\.png: give every image a name of its own"):
        load_images(str(tmp_path), "test")


def test_a_split_that_is_not_there(tmp_path):
    segnet(tmp_path, "val")
    assert len(load_images(str(tmp_path), "test")) == 2  # scored on val, where test is kept back
    with pytest.raises(InputError, match="no split 'train': it has val"):
        load_images(str(tmp_path), "train")


def test_a_label_value_that_its_layout_does_not_have(tmp_path):
    nyu(tmp_path)
    put(tmp_path / "seg13" / "test" / "0001.png", mask(1, 14))
    with pytest.raises(InputError, match=r"label of 0001 in \S+ holds 14, outside the class range 1 to 13"):
        load_images(str(tmp_path), "test")


def test_the_cache_follows_the_files(tmp_path):
    plain(tmp_path)
    before = load_images(str(tmp_path), "test").labels
    put(tmp_path / "test" / "labels" / "0.png", mask(1, 1, 1, 2, 2))
    assert not torch.equal(before, load_images(str(tmp_path), "test").labels)


@pytest.mark.parametrize("words", [("labels", "outside the class range"), ("pairs", "do not pair up")])
def test_the_command_line_says_it_in_one_sentence(words, tmp_path, capsys):
    segnet(tmp_path, "train")
    if words[0] == "labels":
        put(tmp_path / "trainannot" / "0001TP_0.png", mask(0, 77))
    else:
        put(tmp_path / "train" / "alone.png", image())
    code = main(["train", "encoder_decoder", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err.strip()
    assert code == 2
    assert words[1] in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_tables():
    table = segmentation.table_of(3, (3, VOID))
    assert table[:5].tolist() == [0, 1, 2, VOID, -1]
    assert segmentation.table_of(13, (0, VOID), 1)[[0, 1, 13, 14, VOID]].tolist() == [VOID, 0, 12, -1, VOID]


# ---------------------------------------------------------------- what the layouts must not mix up


@pytest.mark.parametrize(
    "path", ["images/{split}/{i}.png labels/{split}/{i}.png", "{split}/images/{i}.png {split}/labels/{i}.png"]
)
def test_a_set_with_splits_gives_only_the_one_asked_for(path, tmp_path):
    for split, n in (("train", 5), ("val", 2)):
        for i in range(n):
            for name, array in zip(path.format(split=split, i=i).split(), (image(i), mask(0, 1)), strict=True):
                put(tmp_path / name, array)
    assert len(load_images(str(tmp_path), "train")) == 5
    assert len(load_images(str(tmp_path), "test")) == 2  # scored on val, never on the images of training
    with pytest.raises(InputError, match="has no split 'tset': it has train, val"):
        load_images(str(tmp_path), "tset")


def test_labels_that_are_missing_altogether(tmp_path):
    for i in range(6):
        put(tmp_path / "train" / "images" / f"{i}.png", image(i))
    (tmp_path / "train" / "labels").mkdir()
    with pytest.raises(InputError, match="6 images and 0 labels"):
        load_images(str(tmp_path), "train")


def test_class_names_of_two_words_are_no_list_of_pairs(tmp_path):
    for i in range(2):
        put(tmp_path / "train" / "images" / f"{i}.png", image(i))
        put(tmp_path / "train" / "labels" / f"{i}.png", mask(0, 1))
    (tmp_path / "classes.txt").write_text("0 sky\n1 road\n")
    assert load_images(str(tmp_path), "train").classes == ("0 sky", "1 road")


def test_masks_of_one_bit_and_masks_of_0_and_255(tmp_path):
    put(tmp_path / "train" / "images" / "a.png", image())
    (tmp_path / "train" / "labels").mkdir()
    Image.fromarray(mask(0, 255)).convert("1").save(tmp_path / "train" / "labels" / "a.png")
    assert load_images(str(tmp_path), "train").labels[0, 0].tolist() == [0] * 8 + [1] * 8
    put(tmp_path / "train" / "labels" / "a.png", mask(0, 255))
    with pytest.raises(InputError, match="hold nothing but 0 and 255, which is void"):
        load_images(str(tmp_path), "train")


def test_padded_images_have_padded_labels(tmp_path):
    parquet(tmp_path / "train.parquet", [(image(h=28, w=28), mask(0, 1, h=28, w=28))])
    found = load_images(str(tmp_path), "train", image_size=32)
    assert bool((found.pixels[0, :, :2] == 0).all())
    assert bool((found.labels[0, :2] == VOID).all())
    assert found.labels[0, 2].tolist() == [VOID] * 2 + [0] * 14 + [1] * 14 + [VOID] * 2


def test_a_list_of_pairs_with_class_names_of_its_own(tmp_path):
    for i in range(2):
        put(tmp_path / "pictures" / f"{i}.png", image(i))
        put(tmp_path / "maps" / f"{i}.png", mask(0, 11))
    (tmp_path / "train.txt").write_text("".join(f"pictures/{i}.png maps/{i}.png\n" for i in range(2)))
    assert load_images(str(tmp_path), "train").labels[0, 0].tolist() == [0] * 8 + [VOID] * 8  # CamVid's void
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(12)))
    found = load_images(str(tmp_path), "train")
    assert found.labels[0, 0].tolist() == [0] * 8 + [11] * 8
    assert len(found.classes) == 12


def test_class_folders_with_images_inside_are_no_maps(tmp_path):
    for i in range(3):
        put(tmp_path / "train" / f"class{i}" / "images" / "a.png", image(i))
    put(tmp_path / "val" / "images" / "a.png", image(9))
    found = load_images(str(tmp_path), "train")
    assert found.labels.tolist() == [0, 1, 2]
    assert found.classes == ("class0", "class1", "class2")


def test_images_and_labels_without_splits_are_taken_whole(tmp_path):
    put(tmp_path / "images/0.png", image(0))
    put(tmp_path / "labels/0.png", mask(0, 1))
    assert load_images(str(tmp_path), "test").split == WHOLE
    with pytest.raises(InputError, match=r"has no splits.*but not for 'tset'"):
        load_images(str(tmp_path), "tset")


def test_the_cache_of_maps_tells_sizes_and_channels_apart(tmp_path):
    for kind, array in (("images", image()), ("labels", mask(0, 1))):
        put(tmp_path / "train" / kind / "a.png", array)
    assert load_images(str(tmp_path), "train").pixels.shape == (1, 3, 12, 16)
    assert load_images(str(tmp_path), "train", image_size=8, channels=1).pixels.shape == (1, 1, 8, 8)


def test_the_cache_of_maps_follows_a_file_of_the_same_size(tmp_path):
    put(tmp_path / "train/images/a.png", image())
    file, found = tmp_path / "train/labels/a.png", []
    for value in (1, 2):
        put(file, mask(value))
        os.utime(file, (value, value))  # some file systems count in coarse ticks
        found.append((file.stat().st_size, load_images(str(tmp_path), "train").labels.unique().tolist()))
    assert found[0][0] == found[1][0]
    assert [labels for _, labels in found] == [[1], [2]]


def test_a_label_of_16_bits_beyond_a_byte_is_one_sentence(tmp_path):
    put(tmp_path / "train/images/a.png", image())
    put(tmp_path / "train/labels/a.png", mask(0, 1).astype(np.uint16) * 300)
    with pytest.raises(InputError, match="holds 300, outside the class range"):
        load_images(str(tmp_path), "train")


def test_the_classes_of_cityscapes_and_voc_are_their_authors():
    official = {c.id: c for c in Cityscapes.classes if c.train_id not in (-1, 255)}
    ours = {k: (i, name) for i, (k, name) in enumerate(segmentation_folders.CITYSCAPES.items())}
    assert {k: (c.train_id, c.name) for k, c in official.items()} == ours
    assert segmentation_folders.VOC[1:] == tuple(FCN_ResNet50_Weights.DEFAULT.meta["categories"][1:])


def test_void_of_cityscapes_may_be_255_too(tmp_path):
    put(tmp_path / "leftImg8bit/val/aachen/a_leftImg8bit.png", image())
    put(tmp_path / "gtFine/val/aachen/a_gtFine_labelIds.png", mask(7, 255))
    assert load_images(str(tmp_path), "val").labels.unique().tolist() == [0, VOID]
