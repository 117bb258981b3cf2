"""A recipe as ``dreamstill profile`` takes it: its settings, its networks, and noise in place of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dreamstill.data.image_set import VOID
from dreamstill.engine import Given, Hardware, choose
from dreamstill.errors import InputError
from dreamstill.methods import Method
from dreamstill.networks.load import checkpoint_file, resolve
from dreamstill.networks.network import Network
from dreamstill.runs import budget
from dreamstill.runs.inputs import resolve_student, resolve_teacher
from dreamstill.runs.settings import DEFAULT_STEPS, read_settings
from dreamstill.tasks import task_of

IMAGES = 2048  # of noise


def read_recipe(path: Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``distill`` in a recipe, or ``defaults`` where it leaves them out; ``said``: those in it."""
    content = read_settings(path, "the recipe", "give a YAML file of dreamstill distill's arguments, as in recipes/")
    unknown = sorted(str(key) for key in set(content) - set(defaults))
    if unknown:
        raise InputError(
            f"the recipe {path} has {', '.join(unknown)}, which dreamstill distill does not take: leave that out, or "
            "correct its spelling"
        )
    for key in {"precision", "compile"} & set(content):  # YAML takes 32 for a number, and on and off for truths
        content[key] = {True: "on", False: "off"}.get(content[key], str(content[key]))
    return {**defaults, **content, "said": set(content)}


def with_options(recipe: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The recipe with what the command line says of the teacher."""
    said = {k: settings[k] for k in ("teacher", "num_classes", "image_size", "channels") if settings[k] is not None}
    return {**recipe, **said}


def with_fresh_weights(recipe: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The recipe with untrained networks in place of checkpoints that are not there, and a note on each.

    Weights do not matter for speed, and those of a recipe that nobody has run yet do not exist.

    Raises:
        InputError: nothing says which network it is; names the options that do.
    """
    notes = []
    for role in ("teacher", "student"):
        checkpoint = recipe[f"{role}_checkpoint"]
        if checkpoint is None or checkpoint_file(Path(checkpoint)).is_file():
            continue
        if role == "teacher":
            network: Any = _untrained_teacher(recipe)
        elif recipe[role] is None:
            raise InputError(
                f"the student's checkpoint {checkpoint} does not exist, and nothing says which network it is: add "
                "student to the recipe, wrn_16_1 for instance"
            )
        else:
            network = recipe[role]
        recipe = {**recipe, role: network, f"{role}_checkpoint": None}
        notes.append(f"{role}: fresh weights, because {checkpoint} does not exist; they take as long")
    return recipe, notes


def _untrained_teacher(recipe: dict[str, Any]) -> Network:
    example = {"teacher": "wrn_40_2", "num_classes": 10, "image_size": 32}
    if missing := {k: v for k, v in example.items() if recipe[k] is None}:
        options = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in missing.items())
        raise InputError(
            f"the teacher's checkpoint {recipe['teacher_checkpoint']} does not exist: train it first, or profile with "
            f"fresh weights and say what network it is, as with {options}"
        )
    channels = recipe["channels"] or 3
    # Neither is seen in a time; every file of weights has its own.
    grey = {"mean": [0.5] * channels, "std": [0.25] * channels}
    facts = {k: recipe[k] for k in ("num_classes", "image_size", "mean", "std") if recipe[k] is not None}
    torch.manual_seed(recipe["seed"])
    return resolve(recipe["teacher"], None, kwargs=recipe["teacher_args"], channels=channels, **{**grey, **facts})


def steps_of(recipe: dict[str, Any]) -> int:
    """The student steps of its run; of a recipe that has none, those of ``dreamstill distill``."""
    return recipe["steps"] or DEFAULT_STEPS


def hardware_of(settings: dict[str, Any], recipe: dict[str, Any], method: Method, given: Given) -> Hardware:
    """What the run of the recipe would choose, where the command line does not say otherwise.

    Compilation is measured only where somebody asked for it: it takes longer than all the rest.
    """
    device, precision = (settings[key] or recipe[key] for key in ("device", "precision"))
    compile = settings["compile"] or (recipe["compile"] if "compile" in recipe["said"] else "off")
    return choose(device, precision, compile, steps_of(recipe) * budget.work(method, given))


def given_of(recipe: dict[str, Any], images: int = IMAGES) -> Given:
    """The recipe's networks, and noise."""
    teacher = resolve_teacher(recipe)
    return with_noise(teacher, resolve_student(recipe, teacher), images)


def with_noise(teacher: Network, student: Network, images: int) -> Given:
    """Noise in place of real, collected and transferred images, which cost the same."""
    real = torch.randint(256, (images, teacher.channels, *teacher.image_size), dtype=torch.uint8)
    task = task_of(teacher)
    if task.name == "segmentation":
        classes = min(teacher.num_classes, VOID)  # a byte holds no more, and its last value is none
        labels = torch.randint(classes, (images, *teacher.image_size), dtype=torch.uint8)
    else:
        labels = torch.randint(teacher.num_classes, (images,))
    logits = torch.randn(images, teacher.num_classes)
    return Given(teacher, student, real, labels, real, real, logits, task=task)
