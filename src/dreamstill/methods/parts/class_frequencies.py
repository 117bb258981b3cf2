"""How often the teacher sees each class in what a generator makes, and weights that favour the rare ones."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamstill.engine import Engine
from dreamstill.losses.gan import frequency_weights


class ClassFrequencies:
    """Counts of predicted classes, their moving average and the weights made of it (eqs. 10 to 12 of HiDFD's summary).

    Args:
        engine: keeps them in the checkpoint.
        every: iterations between two updates of the average; 0: none, and all classes have the same weight.
        kept: share of the average that an update keeps.
        form: ``inverse``: weights by 1/N; ``effective``: by effective numbers.
    """

    def __init__(self, engine: Engine, every: int, kept: float, form: Literal["inverse", "effective"]) -> None:
        once = torch.ones(engine.given.teacher.num_classes, dtype=engine.dtype)
        self.seen, self.often = engine.buffer("seen", 512 * once), engine.buffer("often", 50 * once)
        self.weights = engine.buffer("weights", once)
        self.every, self.kept, self.form = every, kept, form

    def update(self, engine: Engine, logits: Tensor | None) -> None:
        """Count the teacher's classes of made images, by its logits of the global batch (``b k``), if there are any."""
        if logits is not None and self.every > 0:
            self.count(logits, now=(engine.iteration + 1) % self.every == 0)

    def count(self, logits: Tensor, now: bool) -> None:
        """Count them; ``now``: also update the average and the weights."""
        self.seen += F.one_hot(logits.argmax(1), logits.shape[1]).sum(0)
        if now:
            self.often.lerp_(self.seen, 1 - self.kept).clamp_(min=1)
            self.seen.zero_()
            self.weights.copy_(frequency_weights(self.often, None if self.form == "inverse" else 0.99))
