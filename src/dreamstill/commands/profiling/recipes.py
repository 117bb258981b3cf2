"""A recipe as ``dreamstill profile`` takes it: its settings, its networks, and noise in place of images."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from dreamstill.data.image_set import VOID
from dreamstill.engine import Given, Hardware, choose
from dreamstill.errors import InputError
from dreamstill.methods import Method
from dreamstill.networks.load import checkpoint_file, resolve
from dreamstill.networks.network import Network
from dreamstill.runs import budget
from dreamstill.runs.config_file import read_settings
from dreamstill.runs.inputs import resolve_student, resolve_teacher
from dreamstill.runs.settings import DEFAULT_STEPS, DistillSettings, ProfileSettings
from dreamstill.tasks import task_of

IMAGES = 2048  # of noise


@dataclass(frozen=True)
class Recipe:
    """The arguments of ``distill`` in a file."""

    settings: DistillSettings
    said: frozenset[str]  # names of those that stand in it; the others have their defaults


def read_recipe(path: Path) -> Recipe:
    """Read a YAML file of ``distill``'s arguments."""
    content = read_settings(path, "the recipe", "give a YAML file of dreamstill distill's arguments, as in recipes/")
    unknown = sorted(str(key) for key in set(content) - {f.name for f in fields(DistillSettings)})
    if unknown:
        raise InputError(
            f"the recipe {path} has {', '.join(unknown)}, which dreamstill distill does not take: leave that out, or "
            "correct its spelling"
        )
    for key in {"precision", "compile"} & set(content):  # YAML takes 32 for a number, and on and off for truths
        content[key] = {True: "on", False: "off"}.get(content[key], str(content[key]))
    return Recipe(DistillSettings(**content), frozenset(content))


def with_options(recipe: Recipe, options: ProfileSettings) -> Recipe:
    """The recipe with what the command line says of the teacher."""
    settings = recipe.settings
    settings = replace(
        settings,
        teacher=settings.teacher if options.teacher is None else options.teacher,
        num_classes=settings.num_classes if options.num_classes is None else options.num_classes,
        image_size=settings.image_size if options.image_size is None else options.image_size,
        channels=settings.channels if options.channels is None else options.channels,
    )
    return replace(recipe, settings=settings)


def with_fresh_weights(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with untrained networks in place of checkpoints that are not there, and a note on each.

    Weights do not matter for speed, and a recipe that was never run has none.

    Raises:
        InputError: nothing says which network it is; names the options that do.
    """
    settings, notes = recipe.settings, []
    teacher, student = settings.teacher_checkpoint, settings.student_checkpoint
    if _is_missing(teacher):
        settings = replace(settings, teacher=_untrained_teacher(settings), teacher_checkpoint=None)
        notes.append(f"teacher: fresh weights, because {teacher} does not exist; they take as long")
    if _is_missing(student):
        if settings.student is None:
            raise InputError(
                f"the student's checkpoint {student} does not exist, and nothing says which network it is: add "
                "student to the recipe, wrn_16_1 for instance"
            )
        settings = replace(settings, student_checkpoint=None)
        notes.append(f"student: fresh weights, because {student} does not exist; they take as long")
    return replace(recipe, settings=settings), notes


def _is_missing(checkpoint: str | None) -> bool:
    return checkpoint is not None and not checkpoint_file(Path(checkpoint)).is_file()


def _untrained_teacher(settings: DistillSettings) -> Network:
    example = {"teacher": "wrn_40_2", "num_classes": 10, "image_size": 32}
    if missing := {k: v for k, v in example.items() if getattr(settings, k) is None}:
        options = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in missing.items())
        raise InputError(
            f"the teacher's checkpoint {settings.teacher_checkpoint} does not exist: train it first, or profile with "
            f"fresh weights and say what network it is, as with {options}"
        )
    channels = settings.channels or 3
    torch.manual_seed(settings.seed)
    return resolve(
        settings.teacher, None, kwargs=settings.teacher_args, channels=channels, num_classes=settings.num_classes,
        image_size=settings.image_size,
        # Neither is seen in a time; every file of weights has its own.
        mean=[0.5] * channels if settings.mean is None else settings.mean,
        std=[0.25] * channels if settings.std is None else settings.std,
    )  # fmt: skip


def steps_of(recipe: Recipe) -> int:
    """The student steps of its run; of a recipe that has none, those of ``dreamstill distill``."""
    return recipe.settings.steps or DEFAULT_STEPS


def hardware_of(options: ProfileSettings, recipe: Recipe, method: Method, given: Given) -> Hardware:
    """What the run of the recipe would choose, where the command line does not say otherwise.

    Compilation is measured on request alone, for it takes longer than everything else.
    """
    settings = recipe.settings
    device, precision = options.device or settings.device, options.precision or settings.precision
    compile = options.compile or (settings.compile if "compile" in recipe.said else "off")
    return choose(device, precision, compile, steps_of(recipe) * budget.work(method, given))


def given_of(recipe: Recipe, images: int = IMAGES) -> Given:
    """The recipe's networks, and noise."""
    teacher = resolve_teacher(recipe.settings)
    return with_noise(teacher, resolve_student(recipe.settings, teacher), images)


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
