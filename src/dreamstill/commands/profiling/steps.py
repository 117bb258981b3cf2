"""Iterations for measuring: an engine with a method in it, and the time of its steps."""

from __future__ import annotations

import time
import warnings

from dreamstill.engine import Engine, Given, Hardware
from dreamstill.methods import Method, Phase

STEPS = 1000  # the length of the schedule that the iterations pretend to be in


def prepared(
    method: Method, given: Given, hardware: Hardware, compile: bool = False, steps: int | None = None
) -> Engine:
    """An engine with the method set up in it, for a run of so many student steps."""
    method.check(given.task.name)
    engine = Engine(given, device=hardware.device, precision=hardware.precision, compile=compile, steps=steps or STEPS)
    with warnings.catch_warnings():  # what methods warn of is in weights and images, and here these may be noise
        warnings.simplefilter("ignore", UserWarning)
        method.setup(engine)
    return engine


def longest(engine: Engine, method: Method) -> Phase:
    """The phase of the most iterations."""
    return max(method.phases(engine.steps), key=lambda p: p.iterations)


def iterate(engine: Engine, method: Method, times: int, first: int = 0, phase: Phase | None = None) -> list[float]:
    """Seconds of ``times`` iterations of a phase, or of the longest; the first one is numbered ``first`` in it."""
    phase = phase or longest(engine, method)
    seconds = []
    for i in range(first, first + times):
        start = time.perf_counter()
        engine.begin(i, min(i / phase.iterations, 1.0), phase.schedules)
        phase.step(engine)
        engine.read()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return seconds
