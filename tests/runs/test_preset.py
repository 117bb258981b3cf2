"""``--preset paper``: every method's published settings are settings of it, and what the user says stands."""

from dataclasses import fields

import pytest

from dreamstill import methods
from dreamstill.commands.methods import of_paper
from dreamstill.errors import InputError
from dreamstill.methods.nayer import NAYER
from dreamstill.runs.preset import with_preset
from dreamstill.runs.settings import build_method, method_spec

NAMES = [name for name in sorted(methods.names()) if not methods.get(name).control]


@pytest.mark.parametrize("name", NAMES)
def test_published_settings_are_settings_of_the_method_and_not_its_defaults(name):
    cls = methods.get(name)
    built = build_method(with_preset(name, "paper"))
    built.check("classification")
    defaults = {f.name: f.default for f in fields(cls)}
    for setting, value in cls.paper_settings.items():
        assert getattr(built, setting) == value
        assert value != defaults[setting], f"{setting} is the default already"
        assert f"{setting} " in of_paper(cls)


def test_some_methods_have_published_settings_of_their_own():
    assert {name for name in NAMES if methods.get(name).paper_settings} == {
        "cmi", "dafl", "deep_inversion", "fast", "nayer"
    }  # fmt: skip


def test_what_is_given_wins_over_the_preset():
    spec = with_preset({"name": "nayer", "inner_steps": 7}, "paper")
    assert (spec["inner_steps"], spec["w_adv"], spec["images"]) == (7, 1.33, 400)
    assert with_preset("nayer", None) == "nayer"


@pytest.mark.parametrize(
    ("method", "preset", "said"),
    [
        ("auto", "paper", "preset paper needs a named method, and auto chooses"),
        ("noise", "paper", "noise is a control"),
        ("nayer", "papers", "preset is 'papers': the only one is paper"),
        (NAYER(), "paper", "given with a method object"),
    ],
)
def test_a_preset_without_a_paper_is_refused(method, preset, said):
    with pytest.raises(InputError, match=said):
        with_preset(method, preset)


@pytest.mark.slow
def test_the_run_keeps_the_resolved_settings_and_not_the_word(tmp_path):
    from helpers.networks import tiny_network

    from dreamstill import distill
    from dreamstill.runs.config_file import read_config

    tiny = {"name": "dafl", "batch_size": 16, "width": 4, "alpha": 0.2}
    out = tmp_path / "run"
    distill(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), method=tiny, preset="paper", steps=2, out=str(out),
        quiet=True, onnx=False, evaluations=0, precision="32", compile="off",
    )  # fmt: skip
    config = read_config(out / "config.yaml")
    assert "preset" not in config
    kept = method_spec(config["method"])
    assert (kept["nz"], kept["lr_g"], kept["schedule"]) == (1000, 0.02, "step")  # the preset's
    assert (kept["batch_size"], kept["width"], kept["alpha"]) == (16, 4, 0.2)  # given
