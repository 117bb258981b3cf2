"""The choices of a learning rate's course that the released codes of this field share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dreamstill.engine.schedules import Schedule, constant, cosine, step_decay

Decay = Literal["step", "thirds", "cosine", "constant"]


def decay(kind: Decay, milestones: Sequence[float] = (0.2, 0.4)) -> Schedule:
    """``step``: times 0.1 at the milestones (DFAD's CIFAR script: 20 % and 40 % of the phase); ``thirds``: at those."""
    steps = {"step": step_decay(milestones, 0.1), "thirds": step_decay((1 / 3, 2 / 3), 0.1)}
    return {**steps, "cosine": cosine, "constant": constant}[kind]
