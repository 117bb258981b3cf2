"""``--student auto``: the student that is found for the targets, as plain settings."""

from __future__ import annotations

from dataclasses import replace

from dreamstill.errors import InputError
from dreamstill.messages import say
from dreamstill.networks.network import Network
from dreamstill.networks.student_search import Limit, limit_of, propose, spoken
from dreamstill.runs.settings import DistillSettings
from dreamstill.tasks import task_of


def with_found_student(settings: DistillSettings, teacher: Network) -> DistillSettings:
    """The settings with a student's name and arguments in place of ``auto``; what was chosen, and how, is said.

    Raises:
        InputError: there is no target for it, or one without it, or no network keeps to it.
    """
    given: dict[Limit, float | str | None] = {
        "params": settings.target_params, "flops": settings.target_flops, "latency": settings.target_latency
    }  # fmt: skip
    limits: dict[Limit, float] = {k: limit_of(k, v) for k, v in given.items() if v is not None}
    if settings.student != "auto":
        if limits:
            raise InputError(f"--target-{next(iter(limits))} is for --student auto: leave out one of the two")
        return settings
    size = spoken("params", sum(p.numel() for p in teacher.parameters()))
    if not limits:
        raise InputError(
            f"--student auto needs --target-params, --target-flops or --target-latency, as --target-params 300k: the "
            f"teacher has {size}"
        )
    if settings.student_args or settings.student_checkpoint:
        raise InputError("--student auto finds the arguments of its student: leave out --student-args and its weights")
    found = propose(teacher, task_of(teacher).name == "segmentation", limits)
    if not settings.quiet:
        asked = " and ".join(spoken(k, v) for k, v in limits.items())
        say(
            f"student: {found.said()}, of the built-in networks for these images the one with most parameters that "
            f"keeps to {asked}; the teacher has {size}"
        )
    return replace(settings, student=found.name, student_args=found.kwargs)
