"""The collected images that are kept, with the teacher's labels, and the made images beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamstill.data.collected import Ranking
from dreamstill.data.storage import rows
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.messages import say
from dreamstill.networks.pixels import to_float


class HybridSet:
    """Some copies of the collected images and once the made ones: what a hybrid method's student learns from.

    Args:
        engine: keeps both in the checkpoint.
        pixels: all collected images, uint8 ``n c h w``.
        ranking: which of them are kept, with the teacher's labels.
        bank: how many made images are kept, at least a batch of the GAN's.
        inflation: copies of the collected images; None: as many of them as of made ones, about.
        batches: images a step of the GAN and of the student.

    Raises:
        InputError: there are too few images of one kind.
    """

    def __init__(
        self,
        engine: Engine,
        pixels: Tensor,
        ranking: Ranking,
        bank: int,
        inflation: int | None,
        batches: tuple[int, int],
    ) -> None:
        k, made = engine.given.teacher.num_classes, max(bank, batches[0])
        _check_collected(len(pixels), ranking.labels, k, max(batches))
        if inflation == 0 and made < batches[1]:
            raise InputError(
                f"inflation is 0, so the student learns from the {made} made images alone, and its batch_size is "
                f"{batches[1]}: raise bank, or lower batch_size"
            )
        self.pixels = pixels
        self.chosen = engine.buffer("chosen", ranking.order)
        self.labels = engine.buffer("pseudo_labels", ranking.labels)
        self.copies = max(1, round(bank / len(self.chosen))) if inflation is None else inflation
        self.made = engine.bank("made", made)

    def collected(self, engine: Engine, batch_size: int, in_turn: bool) -> tuple[Tensor, Tensor]:
        """A batch of collected images with the teacher's labels; all ``in_turn``, or drawn."""
        index = (engine.sweep if in_turn else engine.integers)(len(self.chosen), batch_size)
        return to_float(self.pixels[self.chosen[index]], engine.dtype), self.labels[index]

    def batch(self, engine: Engine, batch_size: int) -> Tensor:
        """The next images of the hybrid set, all in turn."""
        n, made = len(self.chosen), len(self.made)
        copies = self.copies if made else max(1, self.copies)
        index = engine.sweep(copies * n + made, batch_size)
        old = self.pixels[self.chosen[index % n]]
        if made == 0:
            return to_float(old, engine.dtype)
        new = rows(self.made.pixels, (index - copies * n).clamp_min(0))
        return to_float(torch.where((index < copies * n)[:, None, None, None], old, new), engine.dtype)


def _check_collected(given: int, labels: Tensor, k: int, batch: int) -> None:
    n = len(labels)
    if n < max(k, batch):
        raise InputError(
            f"{n} of {given} collected images are kept for {k} classes and for gan_batch and batch_size of up to "
            f"{batch}: collect more, raise keep, or lower min_confidence or the batches"
        )
    if absent := k - len(labels.unique()):
        say(
            f"warning: the teacher takes none of the {n} collected images for {absent} of its {k} classes: the GAN "
            "learns nothing of what these look like",
            warning=True,
        )
