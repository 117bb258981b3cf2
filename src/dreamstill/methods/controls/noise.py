"""Control: distil on Gaussian noise images. What a method gains over this is what its images are worth."""

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
from dreamstill.methods import Method, Phase
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight


@dataclass
class Noise(Method):
    """``L_S = KL_tau(T(x), S(x))``, ``x ~ N(mean, std)`` of the teacher's normalisation."""

    paper: ClassVar[str] = "control: Gaussian noise images (a row of DFAD's table, arXiv:1912.11006)"
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})
    control: ClassVar[bool] = True

    # the objective
    tau: Positive = 4.0
    """Temperature of the distillation (ours)."""
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
