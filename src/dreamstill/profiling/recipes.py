"""A recipe as ``dreamstill profile`` takes it: its settings, its networks, and noise in place of images."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
import yaml

from dreamstill import api, budget
from dreamstill.adapters import Network
from dreamstill.distilling import DEFAULT_STEPS, resolve_student, resolve_teacher
from dreamstill.engine import Given, Hardware, choose
from dreamstill.errors import InputError
from dreamstill.methods import Method
from dreamstill.tasks import task_of

IMAGES = 2048  # of noise


def read_recipe(path: Path) -> dict[str, Any]:
    """The arguments of ``distill`` in a recipe, with the defaults of those it leaves out; ``said``: those in it."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"the recipe {path} cannot be read ({error}): give a YAML file as in recipes/") from error
    defaults = {k: p.default for k, p in inspect.signature(api.distill).parameters.items()}
    unknown = sorted(set(content) - set(defaults)) if isinstance(content, dict) else [f"{type(content).__name__}"]
    if unknown:
        raise InputError(f"the recipe {path} has {', '.join(unknown)}, which dreamstill distill does not take")
    return {**defaults, **content, "said": set(content)}


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
    each = teacher.image_size if task_of(teacher).name == "segmentation" else ()
    labels = torch.randint(teacher.num_classes, (images, *each))
    logits = torch.randn(images, teacher.num_classes)
    return Given(teacher, student, real, labels, real, real, logits)
