"""Images of drawn classes from a conditional generator, in training and finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from dreamstill.data.bank import ImageBank
from dreamstill.engine import Cast, Engine
from dreamstill.errors import InputError
from dreamstill.methods.parts.replay import remember, reused, shifted
from dreamstill.networks.generators import Generator, Head, LargeGenerator

Size = Literal["small", "large"]


class ClassImages:
    """A generator ``x = G(z, y)`` with what it is fed, and where its images are kept to learn from them again.

    Args:
        generator: as the engine runs it.
        batch_size: images a batch, of all ranks together.
        nz: length of the noise.
        bank: keeps images, classes and the teacher's logits; None: none is kept.
    """

    def __init__(self, generator: Cast, batch_size: int, nz: int, bank: ImageBank | None = None) -> None:
        self.generator, self.batch_size, self.nz, self.bank = generator, batch_size, nz, bank

    def draw(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """Noise ``b nz`` and classes ``b``, independent and uniform."""
        return engine.noise(self.batch_size, self.nz), engine.labels(self.batch_size)

    def make(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """A batch of images, without gradients, and the classes asked for."""
        z, y = self.draw(engine)
        return engine.make(self.generator, z, y), y

    def remember(self, engine: Engine, x: Tensor, t: Tensor, y: Tensor) -> None:
        """Keep what a generator step made, with the teacher's logits ``t``, where there is a bank."""
        if self.bank is not None:
            self.newest = remember(engine, self.bank, x, t, y)

    def lessons(
        self, engine: Engine, steps: int, crop: int = 0, flip: bool = False, logits: bool = True
    ) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an iteration's student steps: images, their classes and, where they are known, ``t``.

        They are made anew; with a bank the first is what the last generator step made and the others are stored ones.

        Args:
            engine: whose draws these are.
            steps: how many.
            crop: largest shift in pixels.
            flip: mirror every other one.
            logits: whether stored ones are of use; of shifted and mirrored images none are known.
        """
        made: Iterator[tuple[Tensor, ...]] = (self.make(engine) for _ in range(steps))
        if self.bank is not None:
            made = reused(engine, self.bank, self.newest, steps, self.batch_size)
        for x, y, *known in made:
            if crop or flip:
                yield shifted(engine, x, self.batch_size, crop, flip), y
            else:
                yield (x, y, *known) if logits else (x, y)

    def finished(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """A batch as the finished generator makes it, in eval mode, and the classes asked for."""
        training = self.generator.training
        self.generator.eval()
        made = self.make(engine)
        self.generator.train(training)
        return made

    def many(self, engine: Engine, n: int) -> Tensor:
        """``n`` images, made in batches of training size."""
        return torch.cat([self.make(engine)[0] for _ in range(-(-n // self.batch_size))])[:n]


def generator_of(size: Size, head: Head) -> Callable[..., Generator | LargeGenerator]:
    """DFAD's generator for small images, which ends in this head, or its DCGAN type for large ones."""
    return LargeGenerator if size == "large" else partial(Generator, head=head)


def check_head(size: Size, head: Head) -> None:
    """Make sure that the generator of this size has this head.

    Raises:
        InputError: it does not.
    """
    if size == "large" and head == "linear":
        raise InputError("head is linear, and the large generator ends in a tanh: leave head out, or take size small")


def check_weights(weights: Mapping[str, float], otherwise: str) -> None:
    """Make sure that a loss has a term.

    Args:
        weights: of its terms, by the names of the settings; 0 where other settings switch the term off.
        otherwise: what is wrong if it has none, in words.

    Raises:
        InputError: it has none.
    """
    if not any(weights.values()):
        raise InputError(f"{', '.join(weights)} are 0 or switched off, so {otherwise}: give one of them a weight")
