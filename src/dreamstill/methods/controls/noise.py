"""Control: distil on Gaussian noise images. What a method gains over this is what its images are worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import SGD

from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.losses.distillation import kl
from dreamstill.methods import Method, Phase
from dreamstill.networks.network import Network


@dataclass
class Noise(Method):
    """``L_S = KL_tau(T(x), S(x))``, ``x ~ N(mean, std)`` of the teacher's normalisation.

    Attributes:
        tau: temperature of the distillation.
        batch_size: images a step.
        lr_s: SGD's learning rate, along a cosine.
        momentum: of SGD.
        weight_decay: of SGD.
    """

    paper: ClassVar[str] = "control: Gaussian noise images (a row of DFAD's table, arXiv:1912.11006)"
    needs: ClassVar[frozenset[str]] = frozenset()
    outside: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})
    control: ClassVar[bool] = True

    tau: float = 4.0
    batch_size: int = 256
    lr_s: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def setup(self, engine: Engine) -> None:
        """The frozen teacher and the student."""
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.shape = (engine.given.teacher.channels, *engine.given.teacher.image_size)
        self.teacher = engine.frozen(engine.given.teacher)
        self.network = engine.given.student
        self.student, self.opt_s = engine.own("student", self.network, sgd, cosine)

    def phases(self, steps: int) -> list[Phase]:
        """One student step an iteration."""
        return [Phase("distil", steps, self.step)]

    def step(self, engine: Engine) -> None:
        """Imitate the teacher on noise."""
        engine.minimise(self.loss_s, self.opt_s, inputs=(self.synthesise(engine, self.batch_size),))

    def loss_s(self, images: Tensor) -> Terms:
        """Student: agree with the teacher."""
        with torch.no_grad():
            t = self.teacher(images).logits
        return {"kl": kl(self.student(images), t, self.tau)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Noise with the mean and standard deviation that the teacher subtracts and divides by."""
        network = engine.given.teacher
        return engine.noise(n, *self.shape) * network.std + network.mean
