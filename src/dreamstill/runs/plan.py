"""A run with every setting resolved, and the same run at its end."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamstill import methods
from dreamstill.data.collected import Collected
from dreamstill.data.image_set import KNOWN, ImageSet
from dreamstill.data.transfer_set import TransferSet
from dreamstill.engine import Engine, Given
from dreamstill.networks.network import Network
from dreamstill.runs.loop import Outcome


@dataclass
class Plan:
    """A run with every setting resolved."""

    command: str
    config: dict[str, Any]
    out: Path
    resume: bool
    quiet: bool
    method: methods.Method
    given: Given
    test: ImageSet | None
    steps: int
    file: str  # what the delivered network's file is called
    teacher_file: dict[str, Any] = field(default_factory=dict)
    student_file: dict[str, Any] = field(default_factory=dict)  # of first weights that are not the seed's
    compare: bool = True  # whether there is a teacher to compare with
    began: float = field(default_factory=time.monotonic)  # when the command did
    collected: Collected | None = None  # images somebody gathered, where the method needs some
    stored: TransferSet | None = None  # images somebody made before, where the method learns from those

    @property
    def outside(self) -> list[str]:
        """Outside information used: the student's first weights, and the method's own word, exact where it can be."""
        first: list[str] = self.student_file.get("outside", [])
        if self.stored is not None:
            return first + self.stored.outside
        return first + (list(self.method.outside) if self.collected is None else [self.collected.outside])

    @property
    def real_sha256(self) -> str | None:
        """Hex digest of the real images and labels that are learnt from; None where there are none."""
        if self.given.real_pixels is None or self.given.real_labels is None:
            return None
        digest = hashlib.sha256()
        for tensor in (self.given.real_pixels, self.given.real_labels):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass
class Finished:
    """A run at its end, in the hands of what writes its results."""

    plan: Plan
    engine: Engine
    outcome: Outcome
    images: Tensor | None  # what the student learnt from last, as the method gives it (``n c h w``)
    setup: float  # seconds before the first step
    trained: float  # when the last step was done

    @property
    def network(self) -> Network:
        """What is delivered."""
        return self.outcome.ema.network


def anywhere(config: dict[str, Any]) -> dict[str, Any]:
    """Settings with paths that hold from any folder; a set's own name stays."""
    files = [k for k in ("teacher_checkpoint", "student_checkpoint", "data_root", "transfer") if config.get(k)]
    named = (None, "digits", *KNOWN)
    sets = [k for k in ("data", "real", "collected") if config.get(k) not in named and Path(config[k]).exists()]
    return config | {k: str(Path(config[k]).resolve()) for k in (*files, *sets)}
