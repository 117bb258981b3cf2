"""A teacher that gives maps, from the command line: trained, distilled, scored, reported; and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers.networks import dense_network
from PIL import Image
from safetensors import safe_open

import dreamstill
from dreamstill.cli import main
from dreamstill.networks.load import save_network

SIZE = (16, 32)
A_PIXEL = 1e-3  # of a mean IoU: some of the set's 11,520, which another order of the sums may turn


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMSTILL_CACHE", str(tmp_path / "cache"))


def scenes(root, n=24):
    """Bright above, dark below, with a border that moves: two classes a network can learn, and a void row."""
    for split, seed in (("train", 0), ("test", 1)):
        draw = np.random.default_rng(seed)
        for i in range(n):
            border = int(draw.integers(4, 12))
            label = (np.arange(SIZE[0])[:, None] >= border).astype(np.uint8).repeat(SIZE[1], 1)
            noise = draw.normal(0, 15, (*SIZE, 3))
            picture = np.clip(np.where(label[..., None], 60, 190) + noise, 0, 255).astype(np.uint8)
            label[0] = 255
            for kind, array in (("images", picture), ("labels", label)):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / split / kind / f"{i}.png")
    (root / "classes.txt").write_text("sky\nroad\n")
    return str(root)


@pytest.fixture
def teacher(tmp_path):
    network = dense_network(4, 0, num_classes=2)
    save_network(tmp_path / "teacher.safetensors", network)
    return str(tmp_path / "teacher.safetensors")


def refused(words, capsys):
    code = main(words)
    said = capsys.readouterr().err.strip()
    assert code == 2, said
    assert "\n" not in said
    return said


@pytest.mark.slow
def test_from_training_to_a_report(tmp_path, capsys):
    data = scenes(tmp_path / "data")
    common = ["--data", data, "--quiet", "--precision", "32", "--compile", "off"]
    train = ["train", "encoder_decoder", "--network-args", "{width: 4}", "--epochs", "12", "--batch-size", "8"]
    train += ["--scale", "0.6", "--relight", "0.2", "--flip", "--class-weights", "root", "--evaluations", "2"]
    assert main([*train, *common, "--out", str(tmp_path / "teacher")]) == 0
    trained = json.loads((tmp_path / "teacher" / "summary.json").read_text())
    assert trained["task"] == "segmentation"
    assert trained["student"]["miou"] > 0.6
    page = (tmp_path / "teacher" / "report.html").read_text()
    assert "Mean intersection over union" in page
    assert "Evenly taken from the set" in page

    distil = ["distill", "--teacher-checkpoint", str(tmp_path / "teacher"), "--student", "encoder_decoder"]
    distil += ["--student-args", "{width: 2}", "--steps", "15", "--method", "ddad", "--method.batch_size", "4"]
    distil += ["--method.nz", "8", "--method.width", "4", "--evaluations", "2"]
    out = tmp_path / "out"
    assert main([*distil, *common, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    student, teacher = summary["student"], summary["teacher"]
    assert teacher["miou"] == pytest.approx(trained["student"]["miou"], abs=A_PIXEL)
    for key in ("miou", "pixel_accuracy", "iou", "miou_last"):
        assert key in student
    assert len(student["iou"]) == len(summary["classes"]) == 2
    assert 0 <= summary["agreement"] <= 1
    assert summary["relative_miou"] == student["miou"] / teacher["miou"]
    assert sum(summary["class_histogram"]) % (SIZE[0] * SIZE[1]) == 0
    assert sum(map(sum, summary["confusion"])) == 24 * (SIZE[0] - 1) * SIZE[1]  # a void row an image
    assert summary["onnx"]["input"]["shape"] == ["batch", 3, *SIZE]
    assert "certificate" not in summary
    assert "its measured mean IoU is" in summary["verdict"]["reasons"][0]
    assert (out / "samples.png").exists()
    assert (out / "comparison.png").exists()
    page = (out / "report.html").read_text()
    assert "There is none for networks that give maps." in page
    for words in ("sky", "road", "Share of the pixels", "map over it", "mean IoU of the"):
        assert words in page, words
    assert "eval/miou" in (out / "metrics.csv").read_text()

    capsys.readouterr()
    assert main(["evaluate", str(out), "--data", data]) == 0
    assert "mean IoU" in capsys.readouterr().out
    found = dreamstill.evaluate(str(out), data=data)
    assert found["miou"] == pytest.approx(student["miou"], abs=A_PIXEL)
    assert main(["synthesize", str(out), "--n", "5"]) == 0
    with safe_open(out / "images.safetensors", "pt") as file:
        assert file.get_tensor("pixels").shape == (5, 3, *SIZE)
        assert file.get_tensor("labels").shape == (5, *SIZE)
    said = refused(["synthesize", str(out), "--n", "5", "--out", str(tmp_path / "x.parquet")], capsys)
    assert "write .safetensors" in said


@pytest.mark.slow
def test_windows_out_of_larger_images(tmp_path, capsys):
    data = scenes(tmp_path / "data")
    common = ["--data", data, "--split", "train", "--set-size", "[16,32]", "--quiet", "--precision", "32"]
    train = ["train", "encoder_decoder", "--network-args", "{width: 4}", "--epochs", "2", "--batch-size", "8"]
    train += ["--image-size", "[16,20]", "--crop", "0", "--compile", "off", "--evaluations", "1"]
    assert main([*train, *common, "--out", str(tmp_path / "teacher")]) == 0
    trained = json.loads((tmp_path / "teacher" / "summary.json").read_text())
    assert trained["data"] == "data, train, 24 images"
    # Whole images are scored.
    assert sum(map(sum, trained["confusion"])) == 24 * (SIZE[0] - 1) * SIZE[1]
    distil = ["distill", "--teacher-checkpoint", str(tmp_path / "teacher"), "--student", "encoder_decoder"]
    distil += ["--student-args", "{width: 2}", "--steps", "2", "--method", "real_data", "--real", data]
    distil += ["--method.batch_size", "4", "--method.crop", "1", "--evaluations", "1", "--compile", "off"]
    out = tmp_path / "out"
    assert main([*distil, *common, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["teacher"]["miou"] == pytest.approx(trained["student"]["miou"], abs=A_PIXEL)
    assert summary["onnx"]["input"]["shape"] == ["batch", 3, 16, 20]
    again = dreamstill.evaluate(str(out), data=data, split="train")
    assert again["miou"] == pytest.approx(summary["student"]["miou"], abs=A_PIXEL)
    narrow = dreamstill.evaluate(str(out), data=data, split="train", set_size=[16, 20])
    assert sum(map(sum, narrow["confusion"])) == 24 * (SIZE[0] - 1) * 20
    capsys.readouterr()
    words = [*train, "--data", data, "--out", str(tmp_path / "x")]
    assert "give sides at least as large" in refused([*words, "--set-size", "[16,19]"], capsys)
    assert "leave --scale at 1" in refused([*words, "--set-size", "[16,32]", "--scale", "0.5"], capsys)
    assert "has no split 'val'" in refused([*words, "--split", "val"], capsys)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["soft_target", "cpsc", "cgdd", "hidfd", "collected_only"])
def test_methods_for_classification_name_those_that_can(name, teacher, tmp_path, capsys):
    words = ["distill", "--teacher-checkpoint", teacher, "--student", "encoder_decoder", "--method", name]
    if name in ("hidfd", "collected_only"):
        Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8)).save(tmp_path / "some.png")
        words += ["--collected", str(tmp_path), "--method.batch_size", "1"]
    said = refused([*words, "--out", str(tmp_path / "out")], capsys)
    assert "this teacher gives a map of logits per image; ddad, noise, random_generator, real_data can learn" in said
    assert not (tmp_path / "out").exists()


def test_sides_that_the_generator_cannot_make(tmp_path, capsys):
    save_network(tmp_path / "t.safetensors", dense_network(4, 0, image_size=(18, 30)))
    words = ["distill", "--teacher-checkpoint", str(tmp_path / "t.safetensors"), "--student", "encoder_decoder"]
    said = refused([*words, "--out", str(tmp_path / "out")], capsys)
    assert "multiples of 4 (this teacher takes 18x30 ones; 20x32 would do" in said
    save_network(tmp_path / "t.safetensors", dense_network(4, 0, image_size=(20, 32)))
    said = refused([*words, "--method", "ddad", "--method.size", "large", "--out", str(tmp_path / "out")], capsys)
    assert "multiples of 16" in said
    assert not (tmp_path / "out").exists()


def test_a_classifier_as_student_and_stored_logits(teacher, tmp_path, capsys):
    torch.manual_seed(0)
    words = ["distill", "--teacher-checkpoint", teacher, "--out", str(tmp_path / "out")]
    save_network(tmp_path / "square.safetensors", dense_network(4, 0, num_classes=2, image_size=(32, 32)))
    words[2] = str(tmp_path / "square.safetensors")
    said = refused([*words, "--student", "resnet8"], capsys)
    assert "gives b k h w and the student resnet8 gives b k: give a student for segmentation" in said
    said = refused([*words, "--student", "encoder_decoder", "--method", "ddad", "--method.reuse", "true"], capsys)
    assert "reuse stores the teacher's logits" in said


def test_labels_beyond_the_teachers_classes(teacher, tmp_path, capsys):
    data = scenes(tmp_path / "data", 2)
    (tmp_path / "data" / "classes.txt").write_text("sky\nroad\ntree\n")
    Image.fromarray(np.full(SIZE, 2, dtype=np.uint8)).save(tmp_path / "data" / "test" / "labels" / "0.png")
    words = ["distill", "--teacher-checkpoint", teacher, "--student", "encoder_decoder", "--data", data]
    save_network(tmp_path / "rgb.safetensors", rgb())
    words[2] = str(tmp_path / "rgb.safetensors")
    said = refused([*words, "--out", str(tmp_path / "out")], capsys)
    assert "labels up to 2 and the network has 2 classes" in said
    said = refused([*words[:-1], "digits", "--out", str(tmp_path / "out")], capsys)
    assert "digits has one label an image" in said


def test_a_set_of_more_classes_than_the_teacher_has_is_another_task(tmp_path, capsys):
    data = scenes(tmp_path / "data", 2)
    (tmp_path / "data" / "classes.txt").write_text("sky\nroad\ntree\n")  # no label of the third
    save_network(tmp_path / "rgb.safetensors", rgb())
    words = ["distill", "--teacher-checkpoint", str(tmp_path / "rgb.safetensors"), "--student", "encoder_decoder"]
    said = refused([*words, "--data", data, "--out", str(tmp_path / "out")], capsys)
    assert "data has 3 classes and encoder_decoder 2: it is another task" in said
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_void_all_over(tmp_path, capsys):
    data = scenes(tmp_path / "data", 8)
    for file in (tmp_path / "data" / "test" / "labels").iterdir():
        Image.fromarray(np.full(SIZE, 255, dtype=np.uint8)).save(file)
    words = ["train", "encoder_decoder", "--network-args", "{width: 2}", "--data", data, "--batch-size", "4"]
    said = refused([*words, "--out", str(tmp_path / "out")], capsys)
    assert "every pixel of data, test, is void" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sizes_that_a_network_does_not_take(tmp_path, capsys):
    data = scenes(tmp_path / "data", 8)
    words = ["--data", data, "--batch-size", "4", "--out", str(tmp_path / "out")]
    train = ["train", "smp_linknet", "--network-args", "{encoder: resnet18}", *words]
    said = refused([*train, "--image-size", "[16,40]"], capsys)
    assert "the network smp_linknet failed when fed 2 images of 3 x 16 x 40" in said
    said = refused([*train, "--image-size", "32", "--set-size", "[36,60]"], capsys)
    assert "smp_linknet fails on images of 36x60, which set_size brings the set to" in said
    for given in ("[16]", "[16,32,3]", "0", "[16,-32]"):
        for option in ("--image-size", "--set-size"):
            other = {"--set-size": ["--image-size", "16"]}.get(option, [])
            said = refused(["train", "encoder_decoder", *words, *other, option, given], capsys)
            assert "give one side of at least 1 pixel, or [height, width]" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_real_images_without_labels(tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "bare" / f"{i}.png")
    rows = [{"image": {"bytes": f.read_bytes(), "path": f.name}} for f in sorted((tmp_path / "bare").iterdir())]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bare.parquet")
    save_network(tmp_path / "rgb.safetensors", rgb())
    words = ["distill", "--teacher-checkpoint", str(tmp_path / "rgb.safetensors"), "--student", "encoder_decoder"]
    words += ["--student-args", "{width: 2}", "--method", "real_data", "--real", str(tmp_path / "bare.parquet")]
    words += [
        "--method.batch_size",
        "4",
        "--steps",
        "2",
        "--quiet",
        "--precision",
        "32",
        "--out",
        str(tmp_path / "out"),
    ]
    said = refused([*words, "--method.loss", "labels"], capsys)
    assert "bare.parquet has no labels, and loss labels needs them" in said
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["steps"] == 2


def rgb():
    from dreamstill.networks import builtin
    from dreamstill.networks.network import Network

    module = builtin.build("encoder_decoder", num_classes=2, channels=3, image_size=SIZE, width=4)
    return Network(module, num_classes=2, image_size=SIZE, name="encoder_decoder", kwargs={"width": 4}).eval()


def test_a_recipe_round_trip_keeps_the_sides(teacher, tmp_path):
    words = ["distill", "--teacher-checkpoint", teacher, "--student", "encoder_decoder", "--student-args", "{width: 2}"]
    words += ["--steps", "5", "--method", "noise", "--method.batch_size", "2", "--quiet", "--no-onnx"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["image_size"] == list(SIZE)
    assert "miou" not in json.loads((tmp_path / "out" / "summary.json").read_text())["student"]
