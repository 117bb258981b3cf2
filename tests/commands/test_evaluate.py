"""``evaluate`` and ``doctor``: what they compare with, and what they say of weights that nobody trained."""

import pytest
import torch
import yaml
from helpers.networks import tiny_network
from helpers.runs import FIXED, SMALL
from PIL import Image

import dreamstill
from dreamstill import api
from dreamstill.errors import InputError
from dreamstill.networks.load import save_network


@pytest.fixture
def run(tmp_path):
    """A run folder, as much of it as evaluate reads."""
    teacher = tiny_network((4, 6), 0, num_classes=10)
    save_network(tmp_path / "teacher.safetensors", teacher)
    (tmp_path / "run").mkdir()
    save_network(tmp_path / "run" / "student.safetensors", tiny_network((2, 3), 1, num_classes=10))
    config = {**teacher.description(), "teacher": "convnet", "teacher_args": {"widths": [4, 6]}}
    config["teacher_checkpoint"] = str(tmp_path / "teacher.safetensors")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run"


def test_a_teacher_without_weights_is_not_compared_with(run):
    with pytest.raises(InputError, match="the teacher lenet5 has no weights: give --teacher-checkpoint"):
        dreamstill.evaluate(str(run), data="digits", teacher="lenet5")
    with pytest.raises(InputError, match="which is a file or folder"):
        dreamstill.evaluate(str(run), data="digits", teacher=str(run.parent / "teacher.safetensors"))


def test_the_runs_own_teacher_by_its_name_has_the_runs_weights(run):
    own = dreamstill.evaluate(str(run), data="digits", limit=50)
    assert dreamstill.evaluate(str(run), data="digits", limit=50, teacher="convnet")["agreement"] == own["agreement"]


def test_doctor_says_that_the_weights_are_random(run, capsys):
    facts = {"num_classes": 10, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}
    assert api.doctor("convnet", **facts)["assumed"] == ["weights"]
    assert "not given, so assumed: weights random" in " ".join(capsys.readouterr().out.split())
    assert "weights" not in api.doctor(str(run))["assumed"]


def test_a_trained_network_makes_no_images(tmp_path):
    (tmp_path / "config.yaml").write_text("network: convnet\ndata: digits\n")
    with pytest.raises(InputError, match="dreamstill train wrote, which makes no images"):
        dreamstill.synthesize(str(tmp_path))


@pytest.fixture
def trapped(tmp_path, monkeypatch):
    """A run folder whose settings can name code for its teacher, and whether that code was called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_teacher.py").write_text("import pathlib\n\ndef make():\n    pathlib.Path('sprung').touch()\n")
    teacher = tiny_network((4, 6), 0, num_classes=10)
    torch.save(teacher.module.state_dict(), tmp_path / "teacher.pt")
    (tmp_path / "run").mkdir()
    save_network(tmp_path / "run" / "student.safetensors", tiny_network((2, 3), 1, num_classes=10))
    about = {**teacher.description(), "teacher_args": None, "teacher_checkpoint": str(tmp_path / "teacher.pt")}

    def settings(**changes):
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(about | changes))
        return str(tmp_path / "run")

    yield settings
    assert not (tmp_path / "sprung").exists()


def test_evaluate_does_not_call_the_code_that_a_run_folder_names_as_its_teacher(trapped, capsys):
    found = dreamstill.evaluate(trapped(teacher="evil_teacher:make"), data="digits", limit=5)
    assert "agreement" not in found
    assert "which is code" in capsys.readouterr().out


def test_evaluate_does_not_call_the_code_below_a_run_folders_teacher(trapped):
    run = trapped(teacher="shared_classifier", teacher_args={"base": "evil_teacher:make"})
    with pytest.raises(InputError, match="--trust-code"):
        dreamstill.evaluate(run, data="digits", limit=5)


def test_doctor_reads_the_channels_off_a_bare_file(tmp_path):
    torch.save(tiny_network((4, 6), 0).module.state_dict(), tmp_path / "x.pt")
    found = api.doctor("convnet", checkpoint=str(tmp_path / "x.pt"), teacher_args={"widths": [4, 6]}, num_classes=4)
    assert (found["channels"], found["mean"], found["std"]) == (1, [0.0], [1.0])
    assert found["assumed"] == ["image_size", "mean", "std"]


def test_evaluate_takes_no_more_images_than_asked(tmp_path):
    save_network(tmp_path / "x.safetensors", tiny_network((2, 3), 1, num_classes=10))
    found = dreamstill.evaluate(str(tmp_path / "x.safetensors"), data="digits", limit=7)
    assert sum(map(sum, found["confusion"])) == 7


def photographs(folder, n=12):
    draw = torch.Generator().manual_seed(0)
    (folder / "deeper").mkdir(parents=True)
    for i in range(n):
        pixels = torch.randint(0, 256, (9, 11), generator=draw, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / ("deeper" if i % 2 else "") / f"{i}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_bytes(b"no image")
    return str(folder)


def test_unlabelled_photographs_tell_how_far_the_student_agrees(tmp_path, capsys):
    teacher = tiny_network((4, 6), 0)
    save_network(tmp_path / "x.safetensors", tiny_network((2, 3), 1))
    path, images = str(tmp_path / "x.safetensors"), photographs(tmp_path / "photographs")
    found = dreamstill.evaluate(path, images=images, teacher=teacher)
    assert found["images"] == 12
    assert sum(row["count"] for row in found["per_class"]) == 12
    agreed = sum(row["agreement"] * row["count"] for row in found["per_class"] if row["count"])
    assert found["agreement"] == pytest.approx(agreed / 12)
    low, high = found["interval"]
    assert 0 <= low < found["agreement"] < high <= 1 or found["agreement"] in (0, 1)
    assert found["ece"] >= 0
    said = capsys.readouterr().out
    assert "12 unlabelled images" in said
    assert "broken.png" in said
    same = dreamstill.evaluate(path, images=images, teacher=dreamstill.load_student(path))
    assert same["agreement"] == 1.0
    assert same["kl"] == pytest.approx(0, abs=1e-6)


def test_unlabelled_photographs_need_a_teacher_and_no_labels(tmp_path):
    save_network(tmp_path / "x.safetensors", tiny_network((2, 3), 1))
    path = str(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="there is no teacher: name it by --teacher"):
        dreamstill.evaluate(path, images=photographs(tmp_path / "photographs"))
    with pytest.raises(InputError, match="both --data and --images"):
        dreamstill.evaluate(path, images="a", data="digits")


@pytest.mark.slow
def test_a_run_of_this_users_with_a_pickled_teacher_and_modules_from_python_has_no_dead_end(tmp_path):
    networks = tiny_network((6, 8), 0, num_classes=10), tiny_network((3, 4), 1, num_classes=10)
    torch.save(networks[0].module, tmp_path / "whole.pt")
    facts = {"num_classes": 10, "image_size": 8, "channels": 1, "mean": 0.3, "std": 0.4}
    out = str(tmp_path / "run")
    settings = {"method": SMALL, "steps": 2, "onnx": False, "out": out, **FIXED, **facts}
    student = networks[1].module
    dreamstill.distill(None, student, teacher_checkpoint=str(tmp_path / "whole.pt"), unsafe_load=True, **settings)
    assert "agreement" in dreamstill.evaluate(out, data="digits", limit=5, student=student)
    dreamstill.synthesize(out, n=4, student=student, unsafe_load=True)
    torch.save(networks[1].module, tmp_path / "whole.pt")  # another pickle in its place
    with pytest.raises(InputError, match="--unsafe-load"):
        dreamstill.evaluate(out, data="digits", limit=5, student=student)
    bare = str(tmp_path / "bare")
    dreamstill.distill(networks[0].module, student, **{**settings, "out": bare})
    with pytest.raises(InputError, match=r"--teacher package.module:factory, or in Python teacher=YourNetwork\(\)"):
        dreamstill.synthesize(bare, student=student)
    dreamstill.synthesize(bare, n=4, teacher=networks[0].module, student=student)
