"""The distances between a student's and a teacher's logits that methods offer by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor

from dreamstill.losses.distillation import kl, l1, mse

Distance = Callable[[Tensor, Tensor], Tensor]


def distance(kind: Literal["l1", "mse", "kl"], tau: float) -> Distance:
    """``l1`` or ``mse`` of the logits, or ``kl`` at temperature ``tau``, of the student's and the teacher's."""
    named: dict[str, Distance] = {"l1": l1, "mse": mse, "kl": partial(kl, tau=tau)}
    return named[kind]
