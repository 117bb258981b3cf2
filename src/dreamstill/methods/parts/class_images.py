"""Images of drawn classes from a conditional generator, in training and finished."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamstill.engine import Engine
from dreamstill.engine.parts import Cast


@dataclass(frozen=True)
class ClassImages:
    """A generator ``x = G(z, y)`` with what it is fed.

    Attributes:
        generator: as the engine runs it.
        batch_size: images a batch, of all ranks together.
        nz: length of the noise.
    """

    generator: Cast
    batch_size: int
    nz: int

    def draw(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """Noise ``b nz`` and classes ``b``, independent and uniform."""
        return engine.noise(self.batch_size, self.nz), engine.labels(self.batch_size)

    def make(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """A batch of images, without gradients, and the classes asked for."""
        z, y = self.draw(engine)
        return engine.make(self.generator, z, y), y

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
