"""The courses of a learning rate or a weight that the released codes of this field share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dreamstill.engine import Engine
from dreamstill.engine.schedules import Schedule, constant, cosine, step_decay

Decay = Literal["step", "thirds", "cosine", "constant"]


def decay(kind: Decay, milestones: Sequence[float] = (0.2, 0.4)) -> Schedule:
    """``step``: times 0.1 at the milestones (DFAD's CIFAR script: 20 % and 40 % of the phase); ``thirds``: at those."""
    steps = {"step": step_decay(milestones, 0.1), "thirds": step_decay((1 / 3, 2 / 3), 0.1)}
    return {**steps, "cosine": cosine, "constant": constant}[kind]


def ramped(engine: Engine, share: float) -> Tensor:
    """A factor (0-d) that grows linearly from 0 to 1 over this share of the phase; 1 at once where the share is 0."""
    factor = min(engine.progress / share, 1.0) if share > 0 else 1.0
    return torch.full((), factor, dtype=engine.dtype, device=engine.device)
