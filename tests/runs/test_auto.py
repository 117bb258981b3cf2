"""``--method auto``: which method and settings it takes for what it is given, and that plain settings are kept."""

import json

import pytest
import torch
import yaml
from helpers.networks import dense_network, tiny_network
from torch import nn

import dreamstill
from dreamstill.cli import normalise
from dreamstill.errors import InputError
from dreamstill.networks.network import Network
from dreamstill.runs import auto, budget, requirements
from dreamstill.runs.budget import Trial
from dreamstill.runs.settings import DistillSettings, build_method


def chosen(teacher, **settings):
    return auto.choose_method(teacher, DistillSettings(**settings)).spec


def plain_teacher(channels=1, size=8):
    module = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * size**2, 4))
    return Network(
        module, num_classes=4, image_size=size, channels=channels, mean=[0.5] * channels, std=[0.5] * channels
    )


def test_batch_norm_leads_where_there_is_any():
    spec = chosen(tiny_network((6, 8), 0))
    assert spec["name"] == "fast"
    assert "w_bn" not in spec


def test_without_batch_norm_the_statistics_have_no_weight():
    assert chosen(plain_teacher())["w_bn"] == 0.0


def test_only_colour_is_mirrored():
    assert chosen(tiny_network((6, 8), 0, channels=3))["flip"] is True
    assert chosen(tiny_network((6, 8), 0))["flip"] is False


def test_large_images_have_the_large_generator():
    assert chosen(plain_teacher(3, 96))["size"] == "large"
    assert chosen(plain_teacher(3, 32))["size"] == "small"


@pytest.mark.parametrize("side", [96, 100, 224, 300])
def test_no_generator_of_large_images_is_huge(side):
    class Pooled(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) @ torch.eye(3, 4)

    teacher = Network(Pooled(), num_classes=4, image_size=side, channels=3, mean=0.5, std=0.5)
    method = build_method(auto.fast_settings(teacher))
    assert 0 < requirements._generator_size(method, teacher) < 15e6


def test_sides_that_no_generator_makes():
    assert chosen(plain_teacher(1, 10))["name"] == "soft_target"


def test_maps_are_ddads():
    assert chosen(dense_network(6, 0))["name"] == "ddad"


def test_collected_images_are_used():
    assert chosen(tiny_network((6, 8), 0), collected="somewhere")["name"] == "hidfd"


def test_what_the_user_says_stands():
    spec = chosen(tiny_network((6, 8), 0), method={"name": "auto", "width": 5, "flip": True})
    assert (spec["width"], spec["flip"]) == (5, True)


def test_every_choice_is_a_method_with_settings_of_its_own():
    for teacher in (tiny_network((6, 8), 0), plain_teacher(), plain_teacher(1, 10), dense_network(6, 0)):
        build_method(chosen(teacher))
    build_method(chosen(tiny_network((6, 8), 0), collected="x"))


def test_the_ratio_follows_the_costs():
    spec = {"name": "fast", "student_steps": auto.TRIAL_STEPS}
    trial = Trial({"warm up": 2.0, "distil": 2.4}, first=0, memory=0, checkpoint=0, bank=0, student=0.1)
    found, changed = auto.in_ratio(spec, trial, minutes=10.0)
    share = changed.seconds["warm up"] / changed.seconds["distil"]
    assert share == pytest.approx(auto.SYNTHESIS_SHARE, abs=0.02)
    assert changed.seconds["distil"] == pytest.approx(2.0 + 0.1 * found["student_steps"])
    assert 1 <= found["warmup"] <= 20
    assert found["warmup"] * 2.0 <= 600 * auto.WARMUP_SHARE
    # With a student that costs next to nothing there is an end to the images' repetition.
    cheap = Trial({"warm up": 2.0, "distil": 2.0}, first=0, memory=0, checkpoint=0, bank=0, student=1e-5)
    assert auto.in_ratio(spec, cheap, minutes=10.0)[0]["student_steps"] == 200


def test_a_setting_without_a_method_is_autos():
    words = normalise(["distill", "--method.width", "8"])
    assert "--method.name=auto" in words


@pytest.mark.slow
def test_the_folder_keeps_the_choice_and_not_the_word(tmp_path, capsys):
    out = tmp_path / "run"
    method = {"name": "auto", "width": 4, "nz": 8, "images": 16, "warmup": 1, "student_steps": 2, "bank": 64}
    dreamstill.distill(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), method=method, steps=4, device="cpu", precision="32",
        compile="off", out=str(out), onnx=False,
    )  # fmt: skip
    assert "auto: fast" in capsys.readouterr().out
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["method"]["name"] == "fast"
    assert config["method"]["crop"] == 1
    assert json.loads((out / "summary.json").read_text())["method"] == "fast"


def test_a_setting_that_the_chosen_method_lacks_is_named(tmp_path):
    with pytest.raises(InputError, match="Fast has no alpha"):
        dreamstill.distill(
            tiny_network((6, 8), 0), tiny_network((3, 4), 1), method={"name": "auto", "alpha": 1.0}, steps=4,
            out=str(tmp_path / "run"),
        )  # fmt: skip


@pytest.mark.slow
def test_minutes_are_measured_and_the_ratio_is_in_the_settings(tmp_path, monkeypatch):
    out = tmp_path / "run"
    measured = Trial({"warm up": 0.02, "distil": 0.03}, first=0, memory=0, checkpoint=0, bank=0, student=0.002)
    monkeypatch.setattr(budget, "measure", lambda *_, **__: measured)
    monkeypatch.setattr(budget, "steps_for", lambda _seconds, trial, method: 30)
    method = {"name": "auto", "width": 4, "nz": 8, "images": 16, "bank": 64}
    dreamstill.distill(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), method=method, minutes=5.0, device="cpu", precision="32",
        compile="off", out=str(out), onnx=False, quiet=True,
    )  # fmt: skip
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["threads"] >= 1
    assert "minutes" not in config
    assert config["method"]["student_steps"] == 15  # 0.02 s are two fifths of 0.02 + 15 * 0.002
    assert config["steps"] == 30


def test_where_no_teacher_is_at_hand_a_method_has_to_be_named():
    with pytest.raises(InputError, match="name a method here"):
        build_method("auto")


def test_a_teacher_without_a_gradient_is_not_blamed_on_its_sides(tmp_path):
    teacher = tiny_network((6, 8), 0)
    teacher.module.register_forward_pre_hook(lambda _module, images: images[0].detach())
    with pytest.raises(InputError, match="a gradient that reaches the images"):
        dreamstill.distill(teacher, tiny_network((3, 4), 1), steps=4, out=str(tmp_path / "run"))
