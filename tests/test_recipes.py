"""What recipes say of released settings, against the released values."""

import re
from pathlib import Path

import pytest

from dreamstill.runs.config_file import read_settings
from dreamstill.runs.settings import build_method

RECIPES = Path(__file__).parents[1] / "recipes"

_DFAD = {
    "alpha": 0.0, "w_adv": 1.0, "discrepancy": "l1", "adversarial": "auto", "student_steps": 5, "generator_steps": 1,
    "student_mode": "train", "nz": 256, "width": 64, "head": "standardised", "lr_s": 0.1, "momentum": 0.9,
    "weight_decay": 5e-4, "lr_g": 1e-3, "reuse": False, "replay": 0.0,
}  # fmt: skip
_CPSC = {
    "variant": "released", "tau": 0.07, "views": "both", "gamma_s": 0.0, "bn_layers": "sum", "condition": "ccbn",
    "generator_steps": 6, "student_steps": 5, "batch_size": 512, "nz": 256, "width": 64, "head": "standardised",
    "lr_g": 1e-3, "schedule_g": "constant", "lr_s": 0.1, "warmup": 10 / 600, "momentum": 0.9, "weight_decay": 5e-4,
    "reuse": False, "steps": 150_000,
}  # fmt: skip
UNKNOWN = "not published for this set"
# The values of the released code and its scripts, by the names that the settings have here.
RELEASED = {
    "DFAD on MNIST": {
        **_DFAD, "nz": 100, "batch_size": 512, "lr_s": 0.01, "weight_decay": 1e-4, "schedule": "constant",
        "steps": 10_000,
    },
    "DFAD on CIFAR": {**_DFAD, "batch_size": 256, "schedule": "step", "steps": 125_000},
    "DFAD on Caltech-101": {
        **_DFAD, "batch_size": 64, "lr_s": 0.05, "schedule": "thirds", "size": "large", "steps": 75_000,
    },
    "DFAD on CamVid": {**_DFAD, "batch_size": 64, "schedule": "thirds", "size": "large", "steps": 75_000},
    "CPSC on CIFAR-100": {**_CPSC, "ikd": "mse", "alpha": 5.0, "beta": 1.0, "gamma": 0.7, "eta": 0.7},
    "CPSC on CIFAR-10": {
        **_CPSC, "ikd": "log_mse", "alpha": UNKNOWN, "beta": UNKNOWN, "gamma": UNKNOWN, "eta": UNKNOWN,
    },
    "HiDFD on CIFAR-10": {
        "keep": 5000, "gan_iterations": 20_000, "gan_batch": 100, "discriminator_steps": 1, "nz": 128, "width": 64,
        "lr_gan": 2e-4, "w_class": 1.0, "w_transfer": 0.1, "w_blend": 0.1, "w_smooth": 0.1, "update_every": 0,
        "frequency": "effective", "frequency_decay": 0.5, "ema": 0.5, "sample_from": "raw", "bank": 50_000,
        "inflation": 10, "align": "map", "batch_size": 64, "lr_s": 0.05, "momentum": 0.9, "weight_decay": 5e-4,
        "schedule": "step", "w_kl": 0.0, "augmentation": "resized", "flip": True, "released_pixels": True,
        "feature_gradient": False, "stretch": True, "student_mean": "ImageNet-32's", "student_std": "ImageNet-32's",
        "steps": 375_000,
    },
}  # fmt: skip


def test_a_recipe_that_says_released_names_all_that_is_not():
    said = [path for path in sorted(RECIPES.glob("*.yaml")) if re.search(r"released|'s settings", path.read_text())]
    assert len(said) >= 8
    for path in said:
        lines = re.findall(r"^# released: (.*)$", path.read_text(), re.M)
        assert len(lines) == 1, f"{path.name} says released: give it a line '# released: TABLE, but for SETTINGS'"


STATED = [path for path in sorted(RECIPES.glob("*.yaml")) if "# released:" in path.read_text()]


@pytest.mark.parametrize("path", STATED, ids=lambda path: path.stem)
def test_its_settings_are_the_released_ones_but_for_those_named(path):
    (line,) = re.findall(r"^# released: (.*)$", path.read_text(), re.M)
    table, _, named = line.partition(", but for ")
    settings = read_settings(path, "the recipe", "")
    has = {**vars(build_method(settings["method"])), "steps": settings["steps"]}
    other = {key for key, value in RELEASED[table].items() if has[key] != value}
    assert other == set(filter(None, named.split(", "))), f"{path.name}: it differs in {', '.join(sorted(other))}"
