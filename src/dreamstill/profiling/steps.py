"""Iterations for measuring: an engine with a method in it, and the time of its steps."""

from __future__ import annotations

import time

from dreamstill.engine import Engine, Given, Hardware
from dreamstill.methods import Method

STEPS = 1000  # the length of the schedule that the iterations pretend to be in


def prepared(method: Method, given: Given, hardware: Hardware, compile: bool = False) -> Engine:
    """An engine with the method set up in it."""
    engine = Engine(given, device=hardware.device, precision=hardware.precision, compile=compile, steps=STEPS)
    method.setup(engine)
    return engine


def iterate(engine: Engine, method: Method, times: int, first: int = 0) -> list[float]:
    """Seconds of ``times`` iterations of the longest phase, the first one numbered ``first``."""
    phase = max(method.phases(STEPS), key=lambda p: p.iterations)
    seconds = []
    for i in range(first, first + times):
        start = time.perf_counter()
        engine.begin(i, i / STEPS)
        phase.step(engine)
        engine.read()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return seconds
