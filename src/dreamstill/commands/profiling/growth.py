"""How the time of an iteration grows with batch, image side and class count, beside how its operations do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dreamstill.commands.profiling.faster import faster_parts
from dreamstill.commands.profiling.parts import record, summarise
from dreamstill.commands.profiling.recipes import with_noise
from dreamstill.commands.profiling.steps import iterate, prepared
from dreamstill.engine import Engine, Given, Hardware
from dreamstill.errors import InputError
from dreamstill.methods import Method, Phase
from dreamstill.networks import builtin
from dreamstill.networks.network import Network, copied
from dreamstill.ranges import Batch, marked
from dreamstill.runs.settings import build_method

CLASSES = (10, 100, 1000)
FACTORS = (0.25, 0.5, 1.0, 2.0)
ROUNDS, MORE_ROUNDS = 3, 8  # of each point, timed as a whole and again in parts
Where = tuple[Given, int, dict[str, int]]  # a point: networks, the value it is called by, the method's settings there
_LEAST = 8  # smaller batches are all overhead


def measure_growth(
    spec: Mapping[str, Any], given: Given, hardware: Hardware, steps: int | None = None
) -> dict[str, dict[str, Any]]:
    """By axis, its settings, each phase's points ``{value, seconds, flops, parts}``, and the parts that grow too fast.

    Along batch all of a method's batch settings grow together, so that whichever a phase uses does. Image side and
    classes only for networks that can be built again by their name, with fresh weights.

    Args:
        spec: the method's name and its settings.
        given: networks, and noise in place of images.
        hardware: resolved.
        steps: of the student in the whole run.
    """
    found = {}

    def grow(axis: str, changes: list[str], points: list[Where]) -> None:
        grown, left_out = _walk(spec, points, hardware, steps)
        if any(faster_parts(each) for each in grown.values()):
            # A machine that was busy for a moment looks just like that: what is named was so twice.
            again, _ = _walk(spec, points, hardware, steps)
            for phase, each in grown.items():
                for first, second in zip(each, again[phase], strict=True):
                    _add_runs(first["parts"], second["parts"])
        if grown:
            faster = [{"phase": name, **f} for name, each in grown.items() for f in faster_parts(each)]
            found[axis] = {"changes": changes, "phases": grown, "faster": faster, "left_out": left_out}

    if batches := batches_of(build_method(spec)):
        scaled = [{k: int(f * n) for k, n in batches.items()} for f in FACTORS]
        first = next(iter(batches))
        grow("batch", list(batches), [(given, s[first], s) for s in scaled if min(s.values()) >= _LEAST])
    if not any(":" in n.name for n in (given.teacher, given.student)):
        side, k = given.teacher.image_size[0], given.teacher.num_classes
        sides = [(_rebuilt(given, s, k), s) for s in (side // 2, side, side * 2) if s % 4 == 0]
        grow("image side", ["image_size"], [(g, v, {}) for g, v in sides if g is not None])
        counts = [(_rebuilt(given, side, c), c) for c in CLASSES]
        grow("classes", ["num_classes"], [(g, v, {}) for g, v in counts if g is not None])
    return found


def _walk(
    spec: Mapping[str, Any], points: list[Where], hardware: Hardware, steps: int | None
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Each phase's measurements at the points, and the points that cannot be measured."""
    grown: dict[str, list[dict[str, Any]]] = {}
    left_out = []
    for given, value, settings in points:
        method = build_method({**spec, **settings})
        try:
            point = _point(method, given, hardware, steps)
        except InputError as error:  # a generator that cannot make images of half the side, for instance
            left_out.append({"value": value, "why": str(error)})
            continue
        for phase, numbers in point.items():
            grown.setdefault(phase, []).append({"value": value, **numbers})
    return grown, left_out


def _add_runs(parts: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    seconds = {(p["step"], p["part"]): p["seconds"] for p in others}
    for p in parts:
        p["seconds"] += seconds.get((p["step"], p["part"]), [])


def batches_of(method: Method) -> dict[str, int]:
    """The batch settings that a method has; the first one names the points."""
    return {name: int(getattr(method, name)) for name in marked(type(method), Batch)}


def _rebuilt(given: Given, side: int, k: int) -> Given | None:
    """The same networks for other images or classes, untrained; None where they cannot be."""

    def again(n: Network) -> Network:
        module = builtin.build(n.name, num_classes=k, channels=n.channels, image_size=side, **n.kwargs)
        facts = n.description()
        return Network(
            module, num_classes=k, image_size=side, channels=n.channels, mean=facts["mean"], std=facts["std"],
            name=n.name, kwargs=n.kwargs,
        )  # fmt: skip

    try:
        teacher, student = again(given.teacher), again(given.student)
    except (InputError, RuntimeError):
        return None
    assert given.real_pixels is not None
    return with_noise(teacher, student, len(given.real_pixels))


def _point(method: Method, given: Given, hardware: Hardware, steps: int | None) -> dict[str, dict[str, Any]]:
    """Seconds and operations of an eager iteration of each phase, and those of its parts."""
    networks = {name: copied(getattr(given, name)) for name in ("teacher", "student")}
    engine = prepared(method, replace(given, **networks), hardware, steps=steps)
    found = {}
    for phase in method.phases(engine.steps):
        iterate(engine, method, 1, 0, phase)
        seconds = iterate(engine, method, ROUNDS, 1, phase)
        parts = _parts(engine, method, phase)
        flops = sum(p["flops"] for p in parts)
        found[phase.name] = {"seconds": statistics.median(seconds), "flops": flops, "parts": parts}
    return found


def _parts(engine: Engine, method: Method, phase: Phase) -> list[dict[str, Any]]:
    """Each part's FLOPs and bytes, and its seconds in each of some iterations."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    began, rounds = time.perf_counter(), 0
    # Small parts are noise in three runs, and many runs of small parts take no time.
    while rounds < ROUNDS or (rounds < MORE_ROUNDS and time.perf_counter() - began < 0.5):
        ops = record(engine, method, phase, 1 + ROUNDS + rounds)
        rounds += 1
        for row in summarise(ops, [0.0] * len(ops)):
            about = {k: row[k] for k in ("step", "part", "flops", "bytes")}
            found.setdefault((row["step"], row["part"]), {**about, "seconds": []})["seconds"].append(row["seconds"])
    return list(found.values())
