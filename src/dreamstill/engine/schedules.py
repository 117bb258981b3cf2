"""Learning-rate schedules: functions of a phase's progress (0 to 1), so that they suit any budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def step_decay(milestones: Sequence[float], factor: float) -> Schedule:
    """Multiplied by ``factor`` at each milestone, a fraction of the phase."""
    return lambda progress: factor ** sum(progress >= m for m in milestones)


def warm_cosine(warmup: float) -> Schedule:
    """Linear from 0 over the first ``warmup`` of the phase, then cosine."""
    return lambda p: p / warmup if p < warmup else cosine((p - warmup) / (1.0 - warmup))
