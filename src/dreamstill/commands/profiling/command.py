"""``dreamstill profile``: a recipe's iterations taken apart, beside what this machine could do."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

from dreamstill import extras
from dreamstill.commands.profiling.growth import FACTORS, batches_of, measure_growth
from dreamstill.commands.profiling.page import write_profile
from dreamstill.commands.profiling.parts import floors_of, record, summarise
from dreamstill.commands.profiling.peaks import alone, machine_peaks
from dreamstill.commands.profiling.recipes import (
    IMAGES,
    given_of,
    hardware_of,
    read_recipe,
    steps_of,
    with_fresh_weights,
    with_options,
)
from dreamstill.commands.profiling.show import show
from dreamstill.commands.profiling.steps import iterate, prepared
from dreamstill.engine import Given, Hardware
from dreamstill.errors import InputError
from dreamstill.files import write_json
from dreamstill.methods import Method
from dreamstill.runs.folder import new_folder
from dreamstill.runs.machine import machine
from dreamstill.runs.preset import with_preset
from dreamstill.runs.random_numbers import kept_random_streams
from dreamstill.runs.settings import ProfileSettings, build_method, method_spec

PROFILE_SCHEMA = 2  # 2: by phase
WARM, ROUNDS = 2, 5


@kept_random_streams()
def run_profile(settings: ProfileSettings) -> dict[str, Any]:
    """Carry out :func:`dreamstill.api.profile`."""
    out = folder_for(settings.out)
    extras.say_left_out({"plots": "the charts in profile.html"})
    recipe, notes = with_fresh_weights(with_options(read_recipe(Path(settings.recipe)), settings))
    named = with_preset(recipe.settings.method, recipe.settings.preset)
    method = build_method(named)
    images = max([IMAGES, *(int(max(FACTORS) * n) for n in batches_of(method).values())])
    given, steps = given_of(recipe, images), steps_of(recipe)
    hardware = hardware_of(settings, recipe, method, given)
    found: dict[str, Any] = {
        "schema": PROFILE_SCHEMA,
        "recipe": Path(settings.recipe).stem,
        "method": method_spec(method),
        "teacher": given.teacher.description(),
        "student": given.student.description(),
        "precision": hardware.precision,
        "device": hardware.device,
        "machine": machine(),
        "notes": notes,
        **take_apart(method, given, hardware, steps),
    }
    if hardware.compile:
        compiled = compiled_phases(build_method(named), given_of(recipe, images), hardware, steps)
        for phase, times in zip(found["phases"], compiled, strict=True):
            phase["compiled"] = times
    found["run"] = whole_run(found["phases"], steps)
    again = given_of(recipe, images)
    found["growth"] = measure_growth(method_spec(method), again, hardware, steps) if settings.growth else {}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "profile.json", found)
    write_profile(out, found)
    print(json.dumps(found, indent=2)) if settings.json else show(found, out)
    return found


def folder_for(given: str | None) -> Path:
    """Where to write: checked before anything is measured."""
    out = Path(given) if given else new_folder(Path("runs"), "profile")
    above = next(p for p in (out.absolute(), *out.absolute().parents) if os.path.lexists(p))
    if not above.is_dir():
        raise InputError(f"--out is {out}, and {above} is a file: name a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"--out is {out}, and nothing can be written to {above}: choose another folder")
    if (out / "profile.json").exists():
        raise InputError(f"{out} holds a profile already: choose another --out")
    return out


def take_apart(method: Method, given: Given, hardware: Hardware, steps: int) -> dict[str, Any]:
    """The eager iteration of each phase: its time, its parts, and the floor under it, all measured in this process."""
    engine = prepared(method, given, hardware, steps=steps)
    phases = method.phases(steps)
    times, ops = [], []
    for phase in phases:
        iterate(engine, method, WARM, 0, phase)
        times.append(iterate(engine, method, ROUNDS, WARM, phase))
        ops.append(record(engine, method, phase, WARM + ROUNDS))
    peaks = machine_peaks(engine.device)
    matrix = iter(alone([op for each in ops for op in each], engine.device))  # equal operations are measured once
    found, parts = [], []
    for phase, before, each in zip(phases, times, ops, strict=True):
        rows = summarise(each, floors_of(each, [next(matrix) for _ in each], peaks["copy_bytes"]))
        # Once before and once after the rest was measured: a machine's speed drifts.
        seconds = [*before, *iterate(engine, method, ROUNDS, WARM + ROUNDS + 1, phase)]
        found.append(
            {
                "name": phase.name,
                "iterations": phase.iterations,
                "iteration_seconds": statistics.median(seconds),
                "all_iteration_seconds": seconds,
                "floor_seconds": sum(p["floor_seconds"] for p in rows),
                "flops": sum(p["flops"] for p in rows),
            }
        )
        parts += [{"phase": phase.name, **row} for row in rows]
    return {"phases": found, "parts": parts, "peaks": peaks}


def compiled_phases(method: Method, given: Given, hardware: Hardware, steps: int) -> list[dict[str, Any]]:
    """The same iterations with compiled steps, and what compiling cost."""
    engine = prepared(method, given, hardware, compile=True, steps=steps)
    found = []
    for phase in method.phases(steps):
        first = iterate(engine, method, WARM, 0, phase)
        seconds = iterate(engine, method, 2 * ROUNDS, WARM, phase)
        found.append(
            {
                "iteration_seconds": statistics.median(seconds),
                "all_iteration_seconds": seconds,
                "first_seconds": sum(first),
            }
        )
    return found


def whole_run(phases: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """All phases together, each with its iterations in a run of ``steps`` student steps."""
    found: dict[str, Any] = {"steps": steps}
    for total, each in (("seconds", "iteration_seconds"), ("floor_seconds", "floor_seconds"), ("flops", "flops")):
        found[total] = sum(p["iterations"] * p[each] for p in phases)
    if all("compiled" in p for p in phases):
        found["compiled_seconds"] = sum(p["iterations"] * p["compiled"]["iteration_seconds"] for p in phases)
    return found
