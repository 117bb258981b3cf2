"""How the time of an iteration grows with batch, image side and class count, beside how its operations do."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from dreamstill import models
from dreamstill.adapters import Network
from dreamstill.config import build_method, method_spec
from dreamstill.engine import Given, Hardware
from dreamstill.errors import InputError
from dreamstill.methods import Method
from dreamstill.profiling.recipes import with_noise
from dreamstill.profiling.steps import iterate, prepared

CLASSES = (10, 100, 1000)
BATCHES = ("batch_size", "synthesis_batch", "gan_batch")  # what methods call theirs; a phase uses one or two of them
FACTORS = (0.25, 0.5, 1.0, 2.0)
_LEAST = 8  # smaller batches are all overhead


def measure_growth(
    recipe: dict[str, Any], given: Given, hardware: Hardware, steps: int | None = None
) -> dict[str, dict[str, Any]]:
    """By axis, what is changed along it, and of each phase the points ``{value, seconds, flops}`` of an iteration.

    Along batch all of a method's batch settings grow together, so that whichever a phase uses does. Image side and
    classes only for networks that can be built again by their name, with fresh weights.
    """
    found = {}

    def grow(axis: str, changes: list[str], points: Sequence[tuple[Given, int, dict[str, int]]]) -> None:
        grown: dict[str, list[dict[str, float]]] = {}
        left_out = []
        for those, value, settings in points:
            method = build_method({**method_spec(recipe["method"]), **settings})
            try:
                point = _point(method, those, hardware, steps)
            except InputError as error:  # a generator that cannot make images of half the side, for instance
                left_out.append({"value": value, "why": str(error)})
                continue
            for phase, numbers in point.items():
                grown.setdefault(phase, []).append({"value": value, **numbers})
        if grown:
            found[axis] = {"changes": changes, "phases": grown, "left_out": left_out}

    if batches := batches_of(build_method(recipe["method"])):
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


def batches_of(method: Method) -> dict[str, int]:
    """The batch settings that a method has; the first one names the points."""
    return {name: int(getattr(method, name)) for name in BATCHES if getattr(method, name, None)}


def _rebuilt(given: Given, side: int, k: int) -> Given | None:
    """The same networks for other images or classes, untrained; None where they cannot be."""

    def again(n: Network) -> Network:
        module = models.build(n.name, num_classes=k, channels=n.channels, image_size=side, **n.kwargs)
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


def _point(method: Method, given: Given, hardware: Hardware, steps: int | None) -> dict[str, dict[str, float]]:
    """Seconds and operations of an eager iteration of each phase."""
    engine = prepared(method, copy.deepcopy(given), hardware, steps=steps)
    found = {}
    for phase in method.phases(engine.steps):
        with FlopCounterMode(display=False) as counter:
            iterate(engine, method, 1, 0, phase)
        seconds = iterate(engine, method, 3, 1, phase)
        found[phase.name] = {"seconds": statistics.median(seconds), "flops": float(counter.get_total_flops())}
    return found
