"""Control: distil from *untrained* generators, re-initialised again and again, through a bank with crop and flip.

The released code of one peer does in fact this, and still reports results near the state of the art: a method that
does not beat it at equal student steps shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import SGD

from dreamstill.data.augment import crop_flip
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.losses.distillation import kl
from dreamstill.methods import Method, Phase, Shows
from dreamstill.networks.generators import Generator
from dreamstill.networks.network import Network


@dataclass
class RandomGenerator(Method):
    """``L_S = KL_tau(T(x), S(x))``, ``x`` cropped and flipped from a bank of images of random generators.

    Attributes:
        every: student steps between two re-initialisations of the generator, each adding one batch to the bank.
        bank: images kept.
        tau: temperature of the distillation (the peer's 20).
        batch_size: images a step.
        nz: noise length.
        width: the generator's width.
        crop: pad-and-crop shift in pixels.
        flip: mirror at random.
        lr_s: SGD's learning rate, along a cosine.
        momentum: of SGD.
        weight_decay: of SGD.
    """

    paper: ClassVar[str] = "control: untrained generators with a bank (what one peer's released code does)"
    needs: ClassVar[frozenset[str]] = frozenset({"sides"})
    outside: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})
    control: ClassVar[bool] = True
    shows: ClassVar[Shows] = "stored"

    every: int = 5
    bank: int = 50_000
    tau: float = 20.0
    batch_size: int = 256
    nz: int = 256
    width: int = 64
    crop: int = 4
    flip: bool = True
    lr_s: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

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
        """Every so often a new random network paints a batch; the student learns from all that is stored."""
        if engine.iteration % self.every == 0:
            engine.redraw(self.generator.module)
            self.stored.add(engine.gather(engine.make(self.generator, engine.noise(self.batch_size, self.nz))))
        images = self.stored.draw(engine.integers(len(self.stored), self.batch_size), engine.dtype).images
        shift = engine.integers(2 * self.crop + 1, self.batch_size, 2)
        images = crop_flip(images, shift, engine.coins(self.batch_size) if self.flip else None, self.crop)
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
