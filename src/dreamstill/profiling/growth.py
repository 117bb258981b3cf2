"""How the time of an iteration grows with batch, image side and class count, beside how its operations do."""

from __future__ import annotations

import copy
import statistics
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamstill import models
from dreamstill.adapters import Network
from dreamstill.config import build_method, method_spec
from dreamstill.engine import Given, Hardware
from dreamstill.errors import InputError
from dreamstill.methods import Method
from dreamstill.profiling.steps import iterate, prepared

CLASSES = (10, 100, 1000)
BATCHES = ("batch_size", "synthesis_batch", "gan_batch")  # what methods call theirs; a phase uses one or two of them
FACTORS = (0.25, 0.5, 1.0, 2.0)
_LEAST = 8  # smaller batches are all overhead


def measure_growth(recipe: dict[str, Any], given: Given, hardware: Hardware) -> dict[str, dict[str, Any]]:
    """By axis, what is changed along it and the points ``{value, seconds, flops}`` of an eager iteration.

    Along batch all of a method's batch settings grow together, so that whichever a phase uses does. Image side and
    classes only for networks that can be built again by their name, with fresh weights.
    """
    found: dict[str, dict[str, Any]] = {}
    if batches := batches_of(build_method(recipe["method"])):
        scaled = [{k: int(f * n) for k, n in batches.items()} for f in FACTORS]
        value = next(iter(batches))
        points = [_point(recipe, given, hardware, s[value], **s) for s in scaled if min(s.values()) >= _LEAST]
        found["batch"] = {"changes": list(batches), "points": points}
    if all(":" not in n.name and n.name in models.names() for n in (given.teacher, given.student)):
        side, k = given.teacher.image_size[0], given.teacher.num_classes
        sides = [_rebuilt(given, s, k) for s in (side // 2, side, side * 2) if s % 4 == 0]
        points = [_point(recipe, g, hardware, g.teacher.image_size[0]) for g in sides if g is not None]
        found["image side"] = {"changes": ["image_size"], "points": points}
        counts = [_rebuilt(given, side, c) for c in CLASSES]
        points = [_point(recipe, g, hardware, g.teacher.num_classes) for g in counts if g is not None]
        found["classes"] = {"changes": ["num_classes"], "points": points}
    return {axis: grown for axis, grown in found.items() if grown["points"]}


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
    pixels = given.real_pixels
    assert pixels is not None
    blank = pixels.new_zeros(2048, *_shape(teacher))
    return replace(
        given,
        teacher=teacher,
        student=student,
        real_pixels=blank,
        collected=blank,
        transfer_pixels=blank,
        transfer_logits=torch.zeros(len(blank), teacher.num_classes),
    )


def _shape(n: Network) -> tuple[int, ...]:
    return (n.channels, *n.image_size)


def _point(recipe: dict[str, Any], given: Given, hardware: Hardware, value: float, **changes: Any) -> dict[str, float]:
    method = build_method({**method_spec(recipe["method"]), **changes})
    engine = prepared(method, copy.deepcopy(given), hardware)
    with FlopCounterMode(display=False) as counter:
        iterate(engine, method, 1)
    seconds = iterate(engine, method, 3, 1)
    return {"value": value, "seconds": statistics.median(seconds), "flops": float(counter.get_total_flops())}
