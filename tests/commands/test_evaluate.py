"""``evaluate`` and ``doctor``: what they compare with, and what they say of weights that nobody trained."""

import pytest
import torch
import yaml
from helpers.networks import tiny_network

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
    with pytest.raises(InputError, match="--unsafe-load"):
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
