"""The user's networks and images, checked before anything is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamstill.data.collected import Collected, enough, load_collected
from dreamstill.data.image_set import VOID, ImageSet
from dreamstill.data.load import load_images
from dreamstill.data.storage import nearest
from dreamstill.data.transfer_set import TransferSet, read_parquet
from dreamstill.engine import Given, stream
from dreamstill.errors import InputError
from dreamstill.messages import say
from dreamstill.methods import Method
from dreamstill.networks.load import FACTS, check_trained, has_weights, resolve
from dreamstill.networks.network import Network, copied, materialise
from dreamstill.networks.output_check import check_output
from dreamstill.runs import requirements
from dreamstill.runs.doubts import doubts
from dreamstill.runs.manifest import Weights
from dreamstill.runs.settings import DistillSettings, DoctorSettings
from dreamstill.runs.weights import student_weights, teacher_weights
from dreamstill.tasks import task_of
from dreamstill.tasks.checks import (
    check_batch,
    check_set,
    check_size,
    load_scored,
    loaded_size,
    warn_of_overlap,
)


@dataclass(frozen=True)
class Inputs:
    """Everything that a run works on."""

    given: Given  # what the engine may see
    test: ImageSet | None = None  # what the student is scored on
    collected: Collected | None = None  # collected images, if the method needs them
    stored: TransferSet | None = None  # a transfer set made before, if the method learns from one
    teacher_weights: Weights = field(default_factory=Weights)
    student_weights: Weights = field(default_factory=Weights)
    notes: tuple[str, ...] = ()  # sentences on choices made in loading, and on what looks wrong
    real_name: str = ""  # of the set of real images, if supervised training loaded one

    @property
    def real_sha256(self) -> str | None:
        """Hex digest of the real images and labels to learn from; None if there are none."""
        if self.given.real_pixels is None or self.given.real_labels is None:
            return None
        digest = hashlib.sha256()
        for tensor in (self.given.real_pixels, self.given.real_labels):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


# ---------------------------------------------------------------- of a distillation


def distillation_inputs(settings: DistillSettings, method: Method, teacher: Network | None = None) -> Inputs:
    """Networks and images of ``dreamstill distill``. ``teacher``: the network, if it was resolved before."""
    teacher = teacher or resolve_teacher(settings)
    student = resolve_student(settings, teacher)
    check(method, teacher, student)
    test = test_set(settings, teacher)
    given, collected, stored = gather_images(settings, method, teacher, student)
    for trained in (settings.real, settings.collected):
        if trained is not None and settings.data is not None:
            warn_of_overlap(trained, settings.data, test)
    if test is not None:
        check_size(student, (test.pixels.shape[2], test.pixels.shape[3]))
    heavy = requirements.generator_note(method, teacher)
    notes = (*teacher.notes, *student.notes, *doubts(teacher, test), *filter(None, [heavy]))
    for note in notes:
        say(note)
    weights = teacher_weights(settings, teacher), student_weights(settings)
    return Inputs(given, test, collected, stored, *weights, notes=notes)


def check_used(settings: DistillSettings) -> None:
    """Refuse arguments that nothing would use."""
    images = {"data": settings.data, "real": settings.real, "collected": settings.collected}
    given = {name for name, source in images.items() if source is not None}
    if settings.split != "test" and "data" not in given:
        raise InputError(f"--split {settings.split} has no effect without --data: give --data too, or leave it out")
    if settings.data_root is not None and not given:
        raise InputError(
            f"--data-root {settings.data_root} has no effect here: give --data, --real or --collected too, or leave it "
            "out"
        )
    if settings.set_size is not None and not given & {"data", "real"}:  # recipes have it for whoever has the set
        say(f"set_size is {settings.set_size} and changes nothing: there is neither --data nor --real")


def told_facts(settings: DistillSettings | DoctorSettings) -> dict[str, Any]:
    """What the user says about the teacher's images, by the names that networks use."""
    return {name: getattr(settings, name) for name in FACTS}


def resolve_teacher(settings: DistillSettings) -> Network:
    """The teacher as a separate network, in whatever form it was given."""
    teacher, checkpoint = settings.teacher, settings.teacher_checkpoint
    if isinstance(teacher, Network):
        return copied(teacher).cpu()  # the engine places it
    facts = told_facts(settings)
    if isinstance(teacher, nn.Module):
        facts["channels"] = facts["channels"] or 3
        for key in FACTS:
            if facts[key] is None:
                raise InputError(f"{key} is missing: a bare nn.Module does not say it, so give {key}=")
        network = Network(copied(teacher).cpu(), **facts)
        materialise(network)
        return network
    if teacher is None and checkpoint is None:
        raise InputError("no teacher: name one with --teacher, and its weights with --teacher-checkpoint")
    has_weights(teacher, checkpoint)

    def found() -> Network:
        return resolve(
            teacher, checkpoint, kwargs=settings.teacher_args, unsafe=settings.unsafe_load,
            trust=settings.trust_code, key=settings.checkpoint_key, prefix=settings.checkpoint_prefix, **facts,
        )  # fmt: skip

    network = found()
    check_trained(network, checkpoint, found)
    return network


def resolve_student(settings: DistillSettings, teacher: Network) -> Network:
    """The student. It takes from the teacher what the user does not say."""
    student, checkpoint = settings.student, settings.student_checkpoint
    if isinstance(student, Network):
        return copied(student).cpu()
    about = teacher.description()
    facts = {k: about[k] for k in FACTS}
    if isinstance(student, nn.Module):
        network = Network(copied(student).cpu(), classes=teacher.classes, **facts)
        materialise(network)
        return network
    if student is None and checkpoint is None:
        raise InputError(
            "no student: name one with --student, wrn_16_1 for instance, or give --student auto --target-params 300k"
        )
    # Not the seed alone: a teacher that was trained here with the same one would have begun at the student's weights.
    torch.manual_seed(stream(settings.seed, "student"))
    network = resolve(
        student, checkpoint, kwargs=settings.student_args, trust=settings.trust_code, role="student", **facts
    )
    network.classes = network.classes or teacher.classes
    return network


def test_set(settings: DistillSettings, teacher: Network) -> ImageSet | None:
    """The labelled set that the student is scored on; None without ``--data``."""
    if settings.data is None:
        return None
    test = load_scored(teacher, settings.data, settings.split, root=settings.data_root, set_size=settings.set_size)
    if test.labels is None:
        raise InputError(f"{settings.data} has no labels: --data needs a labelled set, because it is for scoring")
    return test


def gather_images(
    settings: DistillSettings, method: Method, teacher: Network, student: Network
) -> tuple[Given, Collected | None, TransferSet | None]:
    """Everything that the engine may see, and the collected images and the stored set, if there are any."""
    pixels, labels = _real_images(settings, method, teacher)
    given = Given(teacher, student, pixels, labels, task=task_of(teacher))
    collected, stored = _collected_images(settings, method, teacher), _transfer_set(settings, method, teacher)
    if collected is not None:
        given.collected = collected.pixels
    if stored is not None:
        given.transfer_pixels, given.transfer_logits = stored.pixels, stored.logits
    return given, collected, stored


def _real_images(settings: DistillSettings, method: Method, teacher: Network) -> tuple[Tensor | None, Tensor | None]:
    """Pixels and labels for a control that looks at real images; None for all others."""
    if "real" not in method.needs:
        if settings.real is not None:
            raise InputError(f"{type(method).__name__} does not look at real images: leave out --real {settings.real}")
        return None, None
    if settings.real is None:
        raise InputError(f"{type(method).__name__} trains on real images and none were given: name the set with --real")
    size = loaded_size(settings.set_size, teacher.image_size)
    real = load_images(settings.real, "train", root=settings.data_root, image_size=size, channels=teacher.channels)
    check_set(real, teacher)
    if real.labels is not None:
        return real.pixels, real.labels
    if method.reads_labels:
        raise InputError(f"{settings.real} has no labels, and loss labels needs them: give a labelled set, or loss kd")
    if task_of(teacher).name == "segmentation":
        return real.pixels, torch.full((len(real), *real.pixels.shape[2:]), VOID, dtype=torch.uint8)
    return real.pixels, torch.zeros(len(real), dtype=torch.int64)


def _collected_images(settings: DistillSettings, method: Method, teacher: Network) -> Collected | None:
    """The collected images, for methods that need them; too few readable ones are refused."""
    source = settings.collected
    name = type(method).__name__
    if "collected" not in method.needs:
        if source is not None:
            raise InputError(f"{name} does not look at collected images: leave out --collected {source}")
        return None
    if source is None:
        raise InputError(
            f"{name} learns from collected images and none were given: name a folder or set with --collected"
        )
    collected = load_collected(
        source, root=settings.data_root, image_size=teacher.image_size, channels=teacher.channels
    )
    enough(collected, method.images_a_step, teacher.num_classes)
    return collected


def _transfer_set(settings: DistillSettings, method: Method, teacher: Network) -> TransferSet | None:
    """The stored transfer set, for the method that learns from one; None for all others."""
    source = settings.transfer
    name = type(method).__name__
    if "transfer" not in method.needs:
        if source is not None:
            raise InputError(f"{name} makes its own images: leave out --transfer {source}, or take --method transfer")
        return None
    if source is None:
        raise InputError(f"{name} learns from a stored transfer set and none was given: name it with --transfer")
    return read_parquet(source, teacher, nearest(Path(settings.out or ".")))


def check(method: Method, teacher: Network, student: Network) -> None:
    """Check everything that can be checked before the first step."""
    check_output(teacher)
    check_output(student, role="student")
    lacking = requirements.missing(method, teacher)
    if lacking:
        raise InputError(f"{type(method).__name__} needs of its teacher: {'; '.join(lacking)}")
    theirs, mine = task_of(teacher), task_of(student)
    if theirs.name != mine.name:
        raise InputError(
            f"the teacher {teacher.name} gives {theirs.output} and the student {student.name} gives {mine.output}: "
            f"give a student for {theirs.name}"
        )
    method.check(theirs.name)
    check_batch(student, method.images_a_step)
