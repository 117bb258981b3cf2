"""Supervised training's own parts; whole runs are in the tests of the command line and of segmentation."""

import json

import pytest
import torch
import torch.nn.functional as F
import yaml
from helpers.images import digits_folder, noise, parquet
from helpers.networks import make_given, tiny_network

import dreamstill
from dreamstill.commands.train import Supervised, class_weights
from dreamstill.data.image_set import VOID, ImageSet
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.runs.settings import TrainSettings
from dreamstill.runs.training_inputs import resolve_network


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
    digits_folder(tmp_path / "set")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    small = {"network_args": {"widths": [2, 3]}, "batch_size": 8, "epochs": 1, "crop": 0, "precision": "32"}
    dreamstill.train("convnet", data="set", out="a", compile="off", quiet=True, **small)
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["data"] == str(tmp_path / "set")


def supervised(**settings):
    x = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 4
    network = tiny_network((3, 4), 0)
    engine = Engine(make_given(network, network, x, y), device="cpu", steps=10)
    method = Supervised(**{"batch_size": 5, "crop": 0, **settings})
    method.setup(engine)
    return method, engine


def test_the_optimiser_is_nesterovs_with_the_settings_given():
    method, _ = supervised(lr=0.07, momentum=0.8, weight_decay=3e-3)
    (group,) = method.opt.opt.param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 3e-3, True)


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero():
    method, _ = supervised(lr=0.4, warmup=0.5)
    rates = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        method.opt.set_lr(progress)
        rates.append(method.opt.opt.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.0], abs=1e-9)


def test_smoothing_and_class_weights_reach_the_loss():
    method, _ = supervised(label_smoothing=0.2, class_weights="median")
    assert method.weights.tolist() == [1.0] * 4  # the classes come evenly
    images, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    method.weights = torch.tensor([1.0, 5.0, 0.5, 2.0])
    found = float(method.loss(images, labels)["cross_entropy"].detach())
    with torch.no_grad():
        logits = method.student(images)
    assert found == pytest.approx(float(F.cross_entropy(logits, labels, method.weights, label_smoothing=0.2)), rel=1e-5)


def test_relight_changes_what_is_learnt_from():
    seen = []
    for amount in (0.0, 0.5):
        method, engine = supervised(relight=amount)
        engine.minimise = lambda loss, opt, inputs: seen.append(inputs[0])
        engine.begin(0, 0.0)
        method.step(engine)
    assert not torch.equal(*seen)


@pytest.mark.parametrize(("name", "flip"), [("digits", False), ("cifar10", True)])
def test_only_photographs_are_mirrored_unless_told(name, flip, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMSTILL_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        images = [noise(8, 8, 3, seed=i) for i in range(10)]
        parquet(tmp_path / "cifar10" / f"{split}-00000-of-00001.parquet", images, [0, 1] * 5)
    dreamstill.train(
        "convnet", data=name, data_root=str(tmp_path), network_args={"widths": [2, 3]}, batch_size=5, epochs=0.01,
        crop=0, out=str(tmp_path / "a"), precision="32", compile="off", device="cpu", quiet=True,
    )  # fmt: skip
    assert yaml.safe_load((tmp_path / "a/config.yaml").read_text())["flip"] is flip


def test_a_named_sets_network_has_the_sets_usual_mean_and_std():
    images = ImageSet(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"), "mnist", "train")
    settings = TrainSettings(network="convnet", network_args={"widths": [2, 3]})
    about = resolve_network(settings, images).description()
    assert (about["mean"], about["std"]) == (pytest.approx([0.1307]), pytest.approx([0.3081]))


def test_a_trained_network_is_scored_on_the_split_named(tmp_path):
    dreamstill.train(
        "convnet",
        data="digits",
        network_args={"widths": [2, 3]},
        epochs=0.2,
        crop=0,
        out=str(tmp_path / "a"),
        precision="32",
        compile="off",
        device="cpu",
        quiet=True,
    )
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    assert summary["data"] == "digits, test, 500 images"
    assert summary["steps"] == 2  # a fifth of 1297 // 128


def test_class_weights_of_more_classes_than_a_byte_holds():
    weights = class_weights(torch.arange(300), 300, "median", torch.float32)
    assert weights.tolist() == [1.0] * 300
