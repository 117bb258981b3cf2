"""Collected images: what is read, what is left out and said, and how a run takes them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import noise, parquet, png
from helpers.networks import make_given, tiny_network
from safetensors.torch import load_file

import dreamstill
from dreamstill.data.collected import Collected, enough, load_collected
from dreamstill.data.load import load_images
from dreamstill.engine import Engine
from dreamstill.errors import InputError


def folder(path, n=3, size=(8, 8)):
    path.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (path / f"{i:03}.png").write_bytes(png(noise(*size, seed=i)))
    return path


def load(path, **kwargs):
    return load_collected(str(path), **{"image_size": (8, 8), "channels": 1, **kwargs})


def test_a_flat_folder_needs_no_labels(tmp_path):
    found = load(folder(tmp_path / "some"))
    assert torch.equal(found.pixels, torch.from_numpy(np.stack([noise(8, 8, seed=i) for i in range(3)]))[:, None])
    assert (found.unreadable, found.resized, found.notes) == ((), (), [])
    assert found.outside == f"3 collected unlabelled images, {tmp_path / 'some'}"


def test_folders_in_folders_are_one_set(tmp_path):
    folder(tmp_path / "some/b", 1)
    folder(tmp_path / "some/a/deep", 2)
    folder(tmp_path / "some/.thumbnails", 4)
    (tmp_path / "some/readme.txt").write_text("not an image")
    assert len(load(tmp_path / "some")) == 3


def test_what_cannot_be_read_is_left_out_and_named(tmp_path):
    some = folder(tmp_path / "some", 10)
    for i in range(6):
        (some / f"{i:03}.png").write_bytes(png(noise(8, 8))[:40])  # cut short
    (some / "text.png").write_text("I am no image")
    (some / "empty.jpg").write_bytes(b"")
    found = load(some)
    assert len(found) == 4
    assert torch.equal(found.pixels[0, 0], torch.from_numpy(noise(8, 8, seed=6)))
    assert len(found.unreadable) == 8
    (note,) = found.notes
    assert note.startswith("8 of the collected images unreadable, left out: ")
    assert note.count(".png") == 5
    assert note.endswith(", ...")
    assert "8 unreadable, left out" in found.outside


def test_other_sizes_are_resized_and_named(tmp_path):
    some = folder(tmp_path / "some", 2)
    array = np.zeros((8, 24), np.uint8)
    array[:, 8:16] = 200
    (some / "wide.png").write_bytes(png(array))
    found = load(some)
    assert (found.pixels[2] == 200).all()  # the centre
    assert [name.rsplit("/")[-1] for name in found.resized] == ["wide.png"]
    assert found.notes == [f"1 of the collected images of another size, resized: {some / 'wide.png'}"]
    assert load(some, channels=3).pixels.shape == (3, 3, 8, 8)


def test_parquet_with_any_labels_or_none(tmp_path):
    arrays = [noise(8, 8, seed=i) for i in range(3)]
    for labels in (None, ["cat", None, "dog"], [7, 900, -1]):
        path = parquet(tmp_path / "a.parquet", [*arrays[:2], b"broken"], labels)
        found = load(path)
        assert torch.equal(found.pixels[:, 0], torch.from_numpy(np.stack(arrays[:2])))
        assert found.unreadable == ("2.png",)
    parquet(tmp_path / "root/collected32/train-00000-of-00001.parquet", arrays, [0] * 3)
    assert len(load("collected32", root=tmp_path / "root")) == 3


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither parquet files nor images"):
        load(tmp_path / "empty")
    with pytest.raises(InputError, match="there is no"):
        load(tmp_path / "missing")
    (tmp_path / "empty/text.png").write_text("I am no image")
    with pytest.raises(InputError, match=r"none of the 1 images .* can be read, first .*text\.png"):
        load(tmp_path / "empty")


def test_enough_is_two_batches_and_at_least_64_and_an_image_a_class():
    def some(n, bad=()):
        return Collected(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), "mine", bad)

    enough(some(64), 32, 10)
    enough(some(200), 100, 200)
    with pytest.raises(InputError, match=r"mine has 63 usable images \(2 more cannot be read\), expected at least 64"):
        enough(some(63, ("a", "b")), 4, 10)
    with pytest.raises(InputError, match="at least 200"):
        enough(some(199), 100, 10)
    with pytest.raises(InputError, match="as many as the 200 classes"):
        enough(some(199), 8, 200)


def test_digits_come_without_labels():
    assert torch.equal(load("digits").pixels, load_images("digits", "train").pixels)


def test_the_engine_hands_them_out():
    networks = tiny_network((6, 8), 0), tiny_network((3, 4), 1)
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert torch.equal(Engine(make_given(*networks, collected=pixels), device="cpu").collected(), pixels)
    with pytest.raises(InputError, match="--collected"):
        Engine(make_given(*networks), device="cpu").collected()


# ---------------------------------------------------------------- in a run

CONTROL = {"name": "collected_only", "batch_size": 16, "crop": 1}


def distil(out, source, **changes):
    settings = {
        "method": CONTROL, "steps": 6, "onnx": False, "precision": "32", "compile": "off", "device": "cpu",
        "quiet": True, "collected": None if source is None else str(source), **changes,
    }  # fmt: skip
    return dreamstill.distill(tiny_network((6, 8), 0), tiny_network((3, 4), 1), out=str(out), **settings)


def test_a_run_says_what_it_learnt_from_and_its_student_loads(tmp_path, capsys):
    some = folder(tmp_path / "some", 70)
    (some / "broken.png").write_bytes(b"no image")
    student = distil(tmp_path / "run", some).student
    assert "broken.png" in capsys.readouterr().out
    found = json.loads((tmp_path / "run/collected.json").read_text())
    assert found["unreadable"] == [str(some / "broken.png")]
    assert found["images"] == 70
    assert {row["image"] for row in found["kept"]} == {str(some / f"{i:03d}.png") for i in range(70)}
    confidence = [row["confidence"] for row in found["kept"]]
    assert confidence == sorted(confidence, reverse=True)
    pixels = load(some).pixels
    logits = tiny_network((6, 8), 0)(pixels / 255).detach()
    first = found["kept"][0]
    at = int(Path(first["image"]).stem)
    assert first["class"] == int(logits[at].argmax())
    assert first["confidence"] == pytest.approx(float(logits[at].softmax(0).amax()), abs=1e-4)
    said = [f"70 collected unlabelled images, {some} (1 unreadable, left out)"]
    manifest, summary = (json.loads((tmp_path / "run" / f).read_text()) for f in ("manifest.json", "summary.json"))
    assert manifest["outside_information"] == summary["outside_information"] == said
    assert summary["student"]["params"] == sum(p.numel() for p in student.parameters())
    assert summary["student"]["name"] == "shared_classifier"
    classes = [sum(row["class"] == c for row in found["kept"]) for c in range(4)]
    assert (summary["collected"]["kept"], summary["collected"]["classes"]) == (70, classes)
    assert summary["spread"]["made"] > 0
    assert summary["spread"]["real"] is None  # no labelled set was given
    again = dreamstill.load_student(str(tmp_path / "run"))
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(again(x), student(x), atol=1e-6)
    # dreamstill synthesize finds the images again by the run's own settings.
    assert str(some) in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.filterwarnings("ignore:the teacher takes none")
def test_images_that_are_learnt_from_and_scored_are_said_to_be(tmp_path, capsys):
    some = folder(tmp_path / "some", 70)
    for i, file in enumerate(sorted(some.iterdir())):
        (some / str(i % 4)).mkdir(exist_ok=True)
        file.rename(some / str(i % 4) / file.name)
    distil(tmp_path / "run", some, data=str(some))
    assert "is scored on the same images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_of_hidfd_from_end_to_end(tmp_path, capsys):
    method = {"name": "hidfd", "batch_size": 16, "gan_batch": 16, "nz": 8, "width": 2, "bank": 32, "crop": 1}
    distil(tmp_path / "run", "digits", method=method, steps=4, onnx=True)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["onnx"]["max_difference"] < 1e-3
    assert summary["steps"] == 4
    assert summary["generator_steps"] == 4
    assert (tmp_path / "run/samples.png").exists()
    student = load_file(tmp_path / "run/student.safetensors")
    assert torch.equal(student["head.weight"], tiny_network((6, 8), 0).module.linear.weight)


@pytest.mark.slow
def test_resume_refuses_other_images(tmp_path):
    some = folder(tmp_path / "some", 70)
    distil(tmp_path / "run", some, checkpoint_steps=2)
    for name in ("report.html", "summary.json", "student.safetensors"):
        (tmp_path / "run" / name).unlink()
    (some / "000.png").write_bytes(png(noise(8, 8, seed=99)))
    with pytest.raises(InputError, match="not those that the run"):
        distil(tmp_path / "run", None, resume=True)
    (some / "000.png").write_bytes(png(noise(8, 8, seed=0)))
    distil(tmp_path / "run", None, resume=True)
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize(
    ("changes", "source", "said"),
    [
        ({}, None, "none were given: name a folder or set with --collected"),
        ({"method": "hidfd"}, None, "HiDFD learns from collected images"),
        ({"method": "noise"}, "digits", "Noise does not look at collected images: leave out --collected digits"),
    ],
)
def test_who_gets_them_and_who_must(changes, source, said, tmp_path):
    with pytest.raises(InputError, match=said):
        distil(tmp_path / "run", source, **changes)
    assert not (tmp_path / "run").exists()


def test_too_few(tmp_path):
    with pytest.raises(InputError, match="63 usable images, expected at least 64"):
        distil(tmp_path / "run", folder(tmp_path / "some", 63))
    assert not (tmp_path / "run").exists()


def test_of_a_folder_with_splits_only_the_images_of_training_are_collected(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(n):
            (tmp_path / split / f"{i}.png").write_bytes(png(noise(8, 8, seed=i)))
    assert len(load_collected(str(tmp_path), image_size=(8, 8), channels=1)) == 3
