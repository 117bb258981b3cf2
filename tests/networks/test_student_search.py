"""Students that keep to a target."""

import pytest
import torch
from helpers.networks import tiny_network
from helpers.runs import FIXED, SMALL

import dreamstill
from dreamstill.errors import InputError
from dreamstill.networks import builtin, cost, student_search
from dreamstill.networks.network import Network
from dreamstill.networks.student_search import limit_of, propose


def colour(side=32, k=10):
    module = builtin.build("resnet8", num_classes=k, channels=3, image_size=side)
    return Network(module, num_classes=k, image_size=side, channels=3, mean=0.5, std=0.5)


@pytest.mark.parametrize(
    ("limit", "given", "value"),
    [
        ("params", "300k", 300e3), ("params", "1.5M", 1.5e6), ("params", 2e5, 2e5), ("flops", "30m", 30e6),
        ("flops", "2G", 2e9), ("latency", "5ms", 5e-3), ("latency", 5, 5e-3), ("latency", "0.1s", 0.1),
    ],
)  # fmt: skip
def test_targets_as_they_are_typed(limit, given, value):
    assert limit_of(limit, given) == pytest.approx(value)


@pytest.mark.parametrize("given", ["much", "-3", "0", "5 parsecs", "1.2.3k", "k"])
def test_what_is_no_target(given):
    with pytest.raises(InputError, match=r"--target-params is .* as 300k"):
        limit_of("params", given)


@pytest.mark.parametrize("limits", [{"params": 50e3}, {"flops": 5e6}, {"params": 300e3, "flops": 10e6}])
def test_the_largest_that_keeps_to_the_target(limits):
    teacher = colour()
    found = propose(teacher, False, limits)
    module = builtin.build(found.name, num_classes=10, channels=3, image_size=32, **found.kwargs)
    counted = cost.count(module, 3, (32, 32))._asdict()
    assert all(counted[k] <= v for k, v in limits.items())
    assert found.costs["params"] == counted["params"]
    assert max(counted[k] / v for k, v in limits.items()) > 0.5  # what is there is used


def test_the_time_of_an_image_is_measured(monkeypatch):
    monkeypatch.setattr(
        student_search, "_seconds", lambda module, _: 1e-9 * sum(p.numel() for p in module.parameters())
    )
    assert 0.5e5 < propose(colour(), False, {"latency": 1e-4}).costs["params"] <= 1e5


def test_small_grey_images_and_maps_have_families_of_their_own():
    assert propose(tiny_network((4, 6), 0), False, {"params": 5e3}).name == "convnet"
    assert propose(colour(64), True, {"params": 50e3}).name == "encoder_decoder"
    assert student_search._seconds(torch.nn.Flatten(), colour()) > 0


def test_where_nothing_fits_the_nearest_is_named():
    with pytest.raises(InputError, match=r"keeps to 10 parameters: the nearest is convnet .* --student convnet"):
        propose(tiny_network((4, 6), 0), False, {"params": 10})


def test_a_run_finds_its_student_and_keeps_it_as_plain_settings(tmp_path, capsys):
    teacher = tiny_network((6, 8), 0)
    settings = {"method": SMALL, "steps": 2, "onnx": False, "out": str(tmp_path / "run"), **FIXED, "quiet": False}
    result = dreamstill.distill(teacher, "auto", target_params="2k", **settings)
    assert sum(p.numel() for p in result.student.parameters()) <= 2000
    assert "that keeps to 2k parameters" in capsys.readouterr().out
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "student: convnet" in config
    assert "target" not in config
    assert dreamstill.load_student(str(tmp_path / "run")).kwargs == result.student.kwargs
    for given, said in (
        ({"student": "auto"}, "needs --target-params"),
        ({"student": "convnet", "target_flops": "1M"}, "--target-flops is for --student auto"),
        ({"student": "auto", "target_params": 5000, "student_args": {"widths": [2]}}, "leave out --student-args"),
    ):
        with pytest.raises(InputError, match=said):
            dreamstill.distill(teacher, **{**settings, "out": str(tmp_path / "no"), **given})
