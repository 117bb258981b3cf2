"""Control: distil on Gaussian noise images. What a method gains over this is what its images are worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import SGD

from dreamstill.engine import Engine, Terms
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.decay import decay
from dreamstill.methods.parts.distance import distance
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight


@dataclass
class Noise(Method):
    """``L_S = KL_tau(T(x), S(x))``, ``x ~ N(mean, std)`` of the teacher's normalisation."""

    paper: ClassVar[str] = "control: Gaussian noise images (a row of DFAD's table, arXiv:1912.11006)"
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})
    control: ClassVar[bool] = True

    # the objective
    loss: Literal["kl", "l1"] = "kl"
    """``kl`` at temperature ``tau`` (ours), or ``l1`` on the logits (DFAD's distance)."""
    tau: Positive = 4.0
    """Temperature of ``kl`` (ours)."""
    # optimisation
    batch_size: Annotated[Count, Small(16), Batch()] = 256
    """Images a step (ours)."""
    lr_s: Weight = 0.1
    """Learning rate of SGD (ours)."""
    momentum: Below1 = 0.9
    """Momentum of SGD (ours)."""
    weight_decay: Weight = 5e-4
    """Weight decay of SGD (ours)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate (ours)."""

    def setup(self, engine: Engine) -> None:
        """The frozen teacher and the student."""
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.shape = (engine.given.teacher.channels, *engine.given.teacher.image_size)
        self.teacher = engine.frozen(engine.given.teacher)
        self.network = engine.given.student
        self.student, self.opt_s = engine.own("student", self.network, sgd, decay(self.schedule))
        self.distance = distance(self.loss, self.tau)

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
        return {self.loss: self.distance(self.student(images), t)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Noise with the mean and standard deviation that the teacher subtracts and divides by."""
        network = engine.given.teacher
        return engine.noise(n, *self.shape) * network.std + network.mean
