"""Whether a set can be scored with a network: which classes it names, and what is said of those it lacks."""

import json

import numpy as np
import pytest
from helpers.networks import tiny_network
from PIL import Image

import dreamstill
from dreamstill.errors import InputError


def folders(path, names, n=3):
    """Class folders of noise."""
    draw = np.random.default_rng(0)
    for name in names:
        (path / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(path / name / f"{i}.png")
    return str(path)


def distil(out, data):
    return dreamstill.distill(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), method={"name": "noise", "batch_size": 8}, steps=2, data=data,
        out=str(out), onnx=False, precision="32", compile="off", device="cpu", quiet=True,
    )  # fmt: skip


@pytest.mark.parametrize("names", [("cat", "dog"), ("0", "2", "3")])
def test_a_set_that_names_fewer_classes_is_refused_at_once(names, tmp_path):
    with pytest.raises(InputError, match=rf"names {len(names)} classes and convnet tells 4 apart"):
        distil(tmp_path / "a", folders(tmp_path / "set", names))
    assert not (tmp_path / "a").exists()


def test_a_set_whose_classes_are_numbers_may_lack_the_last(tmp_path):
    distil(tmp_path / "a", folders(tmp_path / "set", ("0", "1")))
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["classes"] == ["0", "1", "2", "3"]
    assert (tmp_path / "a" / "samples.png").exists()
    assert dreamstill.evaluate(str(tmp_path / "a"), data=str(tmp_path / "set"))["accuracy"] >= 0


@pytest.mark.slow
def test_scores_on_the_images_of_training_are_called_so(tmp_path, capsys):
    source = folders(tmp_path / "set", ("0", "1", "2", "3"))
    common = {"quiet": True, "precision": "32", "compile": "off"}
    small = {"network_args": {"widths": [2, 3]}, "batch_size": 4, "epochs": 1, "crop": 0}
    dreamstill.train("convnet", data=source, out=str(tmp_path / "a"), **small, **common)
    assert "has no splits" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["data"] == "set, whole set, 12 images"
    networks = tiny_network((6, 8), 0), tiny_network((3, 4), 1)
    control = {"method": {"name": "real_data", "batch_size": 4}, "steps": 2, "onnx": False, "device": "cpu", **common}
    dreamstill.distill(*networks, real=source, data=source, out=str(tmp_path / "b"), **control)
    assert "has no splits" in capsys.readouterr().out
    dreamstill.distill(
        *networks, real=folders(tmp_path / "other", "0123"), data=source, out=str(tmp_path / "c"), **control
    )
    assert "has no splits" not in capsys.readouterr().out
