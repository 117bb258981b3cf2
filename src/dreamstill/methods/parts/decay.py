"""The choices of a learning rate's course that the released codes of this field share."""

from __future__ import annotations

from typing import Literal

from dreamstill.engine.schedules import Schedule, constant, cosine, step_decay

Decay = Literal["step", "thirds", "cosine", "constant"]


def decay(kind: Decay) -> Schedule:
    """``step``: times 0.1 at 20 % and 40 % of the phase (DFAD's CIFAR script); ``thirds``: at one and two thirds."""
    steps = {"step": step_decay((0.2, 0.4), 0.1), "thirds": step_decay((1 / 3, 2 / 3), 0.1)}
    return {**steps, "cosine": cosine, "constant": constant}[kind]
