"""Control: distil from *untrained* generators, re-initialised again and again, through a bank with crop and flip.

The released code of one peer does in fact this, and still reports results near the state of the art: a method that
does not beat it at equal student steps shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD

from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.losses.distillation import kl
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.replay import replayed
from dreamstill.networks.generators import Generator
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class RandomGenerator(Method):
    """``L_S = KL_tau(T(x), S(x))``, ``x`` cropped and flipped from a bank of images of random generators."""

    paper: ClassVar[str] = "control: untrained generators with a bank (what one peer's released code does)"
    needs: ClassVar[frozenset[str]] = frozenset({"sides"})
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})
    control: ClassVar[bool] = True
    shows: ClassVar[Shows] = "stored"

    # the images
    every: Count = 5
    """Student steps between two re-initialisations of the generator, each adding a batch to the bank (ours)."""
    bank: Annotated[Count, Small(64)] = 50_000
    """Images kept (ours)."""
    nz: Annotated[Count, Small(8)] = 256
    """Length of the noise (ours)."""
    width: Annotated[Count, Small(4)] = 64
    """Base width of the generator (ours)."""
    crop: Whole = 4
    """Images are padded by so many pixels and cropped back (ours)."""
    flip: bool = True
    """Images are mirrored at random (ours)."""
    # the objective
    tau: Positive = 20.0
    """Temperature of the distillation (the peer's code)."""
    # optimisation
    batch_size: Annotated[Count, Small(16), Batch()] = 256
    """Images a step (ours)."""
    lr_s: Weight = 0.1
    """Learning rate of SGD, along a cosine (ours)."""
    momentum: Below1 = 0.9
    """Momentum of SGD (ours)."""
    weight_decay: Weight = 5e-4
    """Weight decay of SGD (ours)."""

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, a generator that never learns, the bank and the student."""
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.teacher = engine.frozen(engine.given.teacher)
        generator = Generator(engine.given.teacher, self.nz, self.width)
        self.generator, _ = engine.own("generator", generator)
        self.network = engine.given.student
        self.student, self.opt_s = engine.own("student", self.network, sgd, cosine)
        self.stored = engine.bank("images", self.bank, wide=generator.wide)

    def phases(self, steps: int) -> list[Phase]:
        """One student step an iteration."""
        return [Phase("distil", steps, self.step)]

    def step(self, engine: Engine) -> None:
        """At intervals a new random generator makes a batch. The student learns from all stored images."""
        if engine.iteration % self.every == 0:
            engine.redraw(self.generator.module)
            self.stored.add(engine.gather(engine.make(self.generator, engine.noise(self.batch_size, self.nz))))
        images = replayed(engine, self.stored, self.batch_size, self.crop, self.flip)
        engine.minimise(self.loss_s, self.opt_s, inputs=(images,))

    def loss_s(self, images: Tensor) -> Terms:
        """Student: agree with the teacher."""
        with torch.no_grad():
            t = self.teacher(images).logits
        return {"kl": kl(self.student(images), t, self.tau)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """A draw from the bank."""
        return self.stored.draw(engine.integers(len(self.stored), n), engine.dtype).images
