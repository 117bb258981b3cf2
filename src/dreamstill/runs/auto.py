"""``--method auto``: choose the method and its settings by the teacher, the given images and the budget.

The rules give plain settings of one method, and ``config.yaml`` keeps these. So a run that is repeated or resumed
chooses nothing again. Trials (``benchmarks/auto_trials.py``) support the defaults of ``fast``; the shares of time below
have not been tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from dreamstill import methods
from dreamstill.engine import Hardware
from dreamstill.errors import InputError, did_you_mean
from dreamstill.networks.network import Network
from dreamstill.runs.budget import Trial
from dreamstill.runs.requirements import offers
from dreamstill.runs.settings import DistillSettings, method_spec
from dreamstill.tasks import task_of

MINUTES = 10.0  # the budget where none is given
# The share of the time, after the first batches, for making images.
SYNTHESIS_SHARE = 0.4
# The largest share of the time for images before the student begins.
WARMUP_SHARE = 0.05
TRIAL_STEPS = 4  # student steps per batch of images while the costs of both are measured


class Choice(NamedTuple):
    """A method with settings, and why it was taken."""

    spec: dict[str, Any]
    why: str


def is_auto(settings: DistillSettings) -> bool:
    """Whether the user leaves the choice to dreamstill."""
    return bool(method_spec(settings.method)["name"] == "auto")


def check_own(settings: DistillSettings) -> None:
    """Make sure, before anything is loaded, that the user's settings belong to a method that may be chosen.

    Raises:
        InputError: a setting belongs to none of them.
    """
    own = set(method_spec(settings.method)) - {"name"}
    known: set[str] = set()
    for name in ("fast", *(spec["name"] for spec in (_SEGMENTATION, _COLLECTED, _NO_GENERATOR))):
        known |= {f.name for f in fields(methods.get(name))}
    if unknown := sorted(own - known):
        hint = f"{did_you_mean(unknown[0], sorted(known))} ".lstrip()
        raise InputError(
            f"none of the methods that auto may take has {', '.join(unknown)}: {hint}dreamstill methods fast lists the "
            "settings of the one it takes for most teachers"
        )


def choose_method(teacher: Network, settings: DistillSettings) -> Choice:
    """The method for this teacher and these images, with the user's own settings on top."""
    own = {k: v for k, v in method_spec(settings.method).items() if k != "name"}
    spec, why = _choose(teacher, collected=settings.collected is not None)
    return Choice({**spec, **own}, why)


def _choose(teacher: Network, collected: bool) -> Choice:
    offered = offers(teacher)
    if task_of(teacher).name == "segmentation":
        return Choice(_SEGMENTATION, "the teacher is for segmentation, for which DDAD is the method")
    if collected and {"linear_head", "doublings", "input_gradient"} <= offered:
        return Choice(_COLLECTED, "collected images are given, and HiDFD is the method that learns from them")
    if "sides" not in offered:
        return Choice(_NO_GENERATOR, "no generator makes images of these sides, so the images themselves are optimised")
    spec = fast_settings(teacher)
    if "bn" not in offered:
        # Trial m1 of benchmarks/auto_trials.py: 89.6 % on MNIST after 2,000 steps.
        spec |= {"w_bn": 0.0, "w_adv": 1.0, "w_label": 1.0, "inner_steps": 5}
        return Choice(spec, "the teacher has no batch norm, so its classes and the student lead")
    return Choice(spec, "the teacher's batch norms remember its data")


# Taken from the best rows of the suites camvid, cifar-cpu (four discriminator steps) and cpu (warped; with fewer images
# and iterations here). Exactly these settings were not run on other teachers.
_SEGMENTATION: dict[str, Any] = {
    "name": "ddad", "alpha": 30.0, "batch_size": 16, "student_steps": 1, "nz": 128, "width": 16, "head": "tanh",
    "lr_g": 2e-3, "lr_s": 0.3, "schedule": "cosine",
}  # fmt: skip
_COLLECTED: dict[str, Any] = {
    "name": "hidfd", "gan": 0.1, "discriminator_steps": 4, "w_kl": 1.0, "schedule": "cosine",
}  # fmt: skip
_NO_GENERATOR: dict[str, Any] = {
    "name": "soft_target", "sigma": 2.0, "sigma_is": "deviation", "n_images": 4000, "synthesis_batch": 250,
    "iterations": 300, "init": "mean", "w_tv": 100.0, "student_optimiser": "sgd", "lr_s": 0.05, "tau_s": 4.0,
    "flip": False, "noise": 0.0, "warp": 3.0,
}  # fmt: skip


def fast_settings(teacher: Network) -> dict[str, Any]:
    """Settings of :class:`dreamstill.methods.fast.Fast` for a classifier of images.

    Generators are small for grey images and wide for colour. Crops are in proportion to the side. Only colour images
    are mirrored, because a grey one may be a digit or a letter.
    """
    side, colour = min(teacher.image_size), teacher.channels >= 3
    beyond = side > 64
    large = beyond and all(s % 16 == 0 for s in teacher.image_size)
    return {
        "name": "fast",
        "size": "large" if large else "small",
        "width": 16 if beyond or not colour else 32,
        # The small form's first layer grows with the image: at 300x300 it would have 92 million weights.
        "nz": 256 if colour and (large or not beyond) else 64,
        "crop": max(side // 8, 1) if colour else max(side // 16, 1),
        "flip": colour,
    }


def in_ratio(spec: Mapping[str, Any], trial: Trial, minutes: float) -> tuple[dict[str, Any], Trial]:
    """Set the student steps per batch of images by the costs of both; return the settings and their trial.

    Args:
        spec: of a method whose ``student_steps`` are :data:`TRIAL_STEPS` if the user gave none.
        trial: of these settings.
        minutes: of the whole run.
    """
    synthesis, student = trial.seconds["warm up"], trial.student
    steps = round(synthesis / student * (1 - SYNTHESIS_SHARE) / SYNTHESIS_SHARE)
    steps = min(max(steps, 5), 200)
    warmup = min(max(round(WARMUP_SHARE * minutes * 60 / synthesis), 1), 20)
    seconds = {"warm up": synthesis, "distil": synthesis + steps * student}
    return {**spec, "student_steps": steps, "warmup": warmup}, replace(trial, seconds=seconds)


def one_line(spec: Mapping[str, Any], steps: int, hardware: Hardware) -> str:
    """What was chosen, for the terminal."""
    said = [spec["name"]]
    if "batch_size" in spec:
        said.append(f"batches of {spec['batch_size']}")
    if "width" in spec:
        said.append(f"generator width {spec['width']}")
    if spec.get("size") == "large":
        said.append("the generator for large images")
    if spec["name"] == "fast":
        said.append(f"{spec['student_steps']} student steps to a batch of new images")
    said.append(f"about {steps:,} student steps in all")
    precision = {"32": "float32", "64": "float64"}.get(hardware.precision, hardware.precision)
    return f"{', '.join(said)}; on {hardware.device} in {precision}{', compiled' if hardware.compile else ''}"
