"""Supervised training's own parts; whole runs are in the tests of the command line and of segmentation."""

import pytest
import torch
import yaml

import dreamstill
from dreamstill.data import VOID
from dreamstill.errors import InputError
from dreamstill.training import class_weights


def test_rare_classes_weigh_more_by_the_median_share():
    labels = torch.tensor([0] * 8 + [1] * 4 + [2] * 2)
    assert class_weights(labels, 4, "median", torch.float32).tolist() == [0.5, 1.0, 2.0, 0.0]  # the fourth never occurs
    root = class_weights(labels, 4, "root", torch.float64)
    assert root.tolist() == pytest.approx([0.5**0.5, 1.0, 2.0**0.5, 0.0])
    assert class_weights(labels, 4, "none", torch.float32) is None


def test_void_is_no_class_when_shares_are_counted():
    labels = torch.full((100, 4, 4), VOID, dtype=torch.uint8)
    labels[:, 0, 0], labels[:, 0, 1:3] = 0, 1
    assert class_weights(labels, 2, "median", torch.float32).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0), ("batch_size", -5), ("crop", -2), ("label_smoothing", 3), ("label_smoothing", -0.1),
        ("warmup", 1), ("warmup", 2), ("warmup", -1), ("scale", 0), ("scale", -1), ("scale", 3), ("relight", 5),
        ("relight", -5), ("channels", 0), ("channels", 2), ("epochs", 0), ("epochs", -1), ("epochs", float("nan")),
        ("epochs", float("inf")), ("lr", -0.1), ("momentum", 1), ("momentum", 0), ("weight_decay", -1), ("seed", -1),
        ("seed", 10**23), ("evaluations", -3), ("checkpoint_seconds", -1),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_before_the_data_are_read(name, value, tmp_path):
    with pytest.raises(InputError, match=rf"^{name} is "):
        dreamstill.train("convnet", data="nowhere", out=str(tmp_path / "a"), **{name: value})


def test_a_repeat_finds_the_set_from_another_folder(tmp_path, monkeypatch):
    from test_resuming import digits_folder

    digits_folder(tmp_path / "set")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    small = {"network_args": {"widths": [2, 3]}, "batch_size": 8, "epochs": 1, "crop": 0, "precision": "32"}
    dreamstill.train("convnet", data="set", out="a", compile="off", quiet=True, **small)
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["data"] == str(tmp_path / "set")
