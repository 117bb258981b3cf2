"""``evaluate`` and ``doctor``: what they compare with, and what they say of weights that nobody trained."""

import pytest
import yaml
from conftest import tiny_network

import dreamstill
from dreamstill import api
from dreamstill.errors import InputError
from dreamstill.weights import save_network


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
