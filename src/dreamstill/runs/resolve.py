"""Decide once what a distillation leaves open: method and settings, hardware, threads, steps and when to end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dreamstill.data.image_set import ImageSet
from dreamstill.engine import Given, Hardware, choose
from dreamstill.engine.hardware import conv_speed, fastest_threads
from dreamstill.messages import say
from dreamstill.methods import Method
from dreamstill.runs import auto, budget, memory
from dreamstill.runs.certificate import LEAST, SHARE
from dreamstill.runs.folder import folder_for
from dreamstill.runs.inputs import Inputs, distillation_inputs, resolve_teacher
from dreamstill.runs.preset import with_preset
from dreamstill.runs.run import CURVE_IMAGES
from dreamstill.runs.settings import DEFAULT_STEPS, FINISHING_SECONDS, DistillSettings, build_method, method_spec
from dreamstill.runs.student_auto import with_found_student

# Student steps. On Fashion-MNIST fast reached 63 % with 600 and 81 % with 2,000 (benchmarks/records/auto-trials).
FEW, USEFUL = 600, 2_000
_LARGE = 96  # pixels a side, from which memory is estimated before a run
_REACHED = 0.5  # of a convolution's speed: what whole runs reach, about


@dataclass(frozen=True)
class Resolved:
    """A distillation with nothing left open."""

    settings: DistillSettings
    method: Method
    inputs: Inputs
    hardware: Hardware
    steps: int
    ends: float | None = None  # when training should end, by time.monotonic; None without a budget of minutes
    estimate: str = ""  # of a dry run
    out: Path | None = None  # of the run, as it was said


def resolve_run(settings: DistillSettings, began: float) -> Resolved:
    """Decide all that is open; ``began``: when the command did."""
    named = with_preset(settings.method, settings.preset)
    if not auto.is_auto(settings):
        method = build_method(named)
        out = _announced(settings, method_spec(method)["name"])
        teacher = resolve_teacher(settings)
        settings = with_found_student(settings, teacher)
        inputs = distillation_inputs(settings, method, teacher)
        settings, hardware = _hardware(settings, method, inputs.given)
        return replace(_measured(settings, method, inputs, hardware, began), out=out)
    auto.check_own(settings)
    if settings.out is not None:
        _announced(settings, "")
    teacher = resolve_teacher(settings)
    settings = with_found_student(settings, teacher)
    spec, why = auto.choose_method(teacher, settings)
    if settings.minutes is None and settings.steps is None:
        settings = replace(settings, minutes=auto.MINUTES)
    out = _announced(settings, spec["name"]) if settings.out is None else None
    ours = spec["name"] == "fast" and settings.minutes is not None and "student_steps" not in spec
    method = build_method({**spec, "student_steps": auto.TRIAL_STEPS} if ours else spec)
    inputs = distillation_inputs(settings, method, teacher)
    settings, hardware = _hardware(settings, method, inputs.given)
    found = _measured(settings, method, inputs, hardware, began, in_ratio=ours)
    if not settings.quiet:
        say(f"auto: {auto.one_line(method_spec(found.method), found.steps, found.hardware)} ({why})")
    return replace(found, out=out)


def _announced(settings: DistillSettings, method: str) -> Path | None:
    """Where the run is written, said before anything that takes long; None where nothing is."""
    if settings.dry_run:
        return None
    out = folder_for(settings.out, method)
    if not settings.quiet:
        say(f"run folder: {out}")
    return out


def _reached() -> float:
    """About the FLOP/s that a run reaches on this CPU."""
    return _REACHED * conv_speed(torch.float32)


def _hardware(settings: DistillSettings, method: Method, given: Given) -> tuple[DistillSettings, Hardware]:
    """Device, precision and compilation, and the threads, which are tried if the budget is a time."""
    steps, minutes = settings.steps, settings.minutes
    if settings.threads is None and minutes is not None and settings.device in ("auto", "cpu"):
        settings = replace(settings, threads=fastest_threads())
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if minutes is not None and steps is None:
        flops = minutes * 60 * _reached()
    else:
        flops = (steps or DEFAULT_STEPS) * budget.work(method, given)
    hardware = choose(settings.device, settings.precision, settings.compile, flops)
    return settings, budget.agreed(hardware, hardware)  # auto tries how fast this process is


def _measured(
    settings: DistillSettings, method: Method, inputs: Inputs, hardware: Hardware, began: float, in_ratio: bool = False
) -> Resolved:
    """The steps that a budget of minutes allows, found by a trial. Without such a budget, the steps that were given."""
    minutes = settings.minutes
    needed = _memory(settings, method, inputs.given, hardware)
    if settings.dry_run and needed is not None and not needed.fits:
        estimate = f"memory       {memory.describe(needed, method, inputs.given)}\nnothing was measured"
        return Resolved(settings, method, inputs, hardware, settings.steps or DEFAULT_STEPS, None, estimate)
    if minutes is None and not settings.dry_run:
        return Resolved(settings, method, inputs, hardware, settings.steps or DEFAULT_STEPS)
    if not settings.quiet:
        say("measuring how long an iteration takes, for some seconds")
    trial = budget.measure(
        lambda: build_method(method), inputs.given, hardware, settings.seed,
        watch=lambda placed: _evaluation_seconds(inputs.test, settings.evaluations, placed),
    )  # fmt: skip
    trial, spent, reached = budget.agreed((trial, time.monotonic() - began, _reached()), hardware)
    steps, ends = settings.steps or DEFAULT_STEPS, None
    if minutes is not None:
        if in_ratio:
            spec, trial = auto.in_ratio(method_spec(method), trial, minutes)
            method = build_method(spec)
        # What comes after training: samples, export, report, and the certificate.
        finishing = FINISHING_SECONDS + max(SHARE * minutes * 60, LEAST / reached)
        steps = budget.steps_for(minutes * 60 - trial.watching - finishing - spent, trial, method)
        ends = began + minutes * 60 - finishing - trial.scoring
        _say_if_few(steps, minutes, trial, method)
    estimate = budget.describe(trial, method, steps) if settings.dry_run else ""
    return Resolved(settings, method, inputs, hardware, steps, ends, estimate)


def _memory(settings: DistillSettings, method: Method, given: Given, hardware: Hardware) -> memory.Estimate | None:
    """What an iteration needs, for a dry run and for large images; said where that is not there."""
    if not settings.dry_run and max(given.teacher.image_size) < _LARGE:
        return None
    found = memory.estimate(method, given, hardware)
    if found is not None and not found.fits and not settings.dry_run:
        say(f"warning: memory: {memory.describe(found, method, given)}", warning=True)
    return found


def _say_if_few(steps: int, minutes: float, trial: budget.Trial, method: Method) -> None:
    """Say before the run that a budget is too small to be useful, and which one would be enough."""
    if steps >= FEW:
        return
    would_do = math.ceil((trial.total(method, USEFUL) + trial.watching + FINISHING_SECONDS) / 60 * 1.1)
    say(
        f"{minutes:g} minutes are about {steps} student steps here, too few for a student that copies its teacher: "
        f"--minutes {would_do} would give {USEFUL:,}"
    )


def _evaluation_seconds(test: ImageSet | None, evaluations: int, given: Given) -> tuple[float, float]:
    """Seconds of all evaluations of a run, and of the last one, which covers all images and both networks."""
    if test is None:
        return 0.0, 0.0
    some = test.pixels[: min(256, given.task.looked_at)]
    started = time.perf_counter()
    given.task.predict(given.student, some)
    student = time.perf_counter() - started
    given.task.predict(given.teacher, some)
    both = time.perf_counter() - started
    last = len(test) * (both + student) / len(some)
    return evaluations * min(len(test), CURVE_IMAGES) * student / len(some) + last, last
