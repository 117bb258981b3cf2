"""Classification: logits ``b k``, one label an image."""

from __future__ import annotations

from torch import Tensor


class Classification:
    """How two classifiers are compared. Dense prediction puts its own form in the same place."""

    name = "classification"

    def adversarial(self, discrepancy: Tensor) -> Tensor:
        """The generator's loss for a discrepancy between teacher and student (DFAD: its negative)."""
        return -discrepancy
