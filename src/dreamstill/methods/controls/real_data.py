"""Control: the upper bounds. Distillation on the real training images, or plain training with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import SGD

from dreamstill.data.augment import starts
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.losses.distillation import kl
from dreamstill.methods import Method, Phase, Shows
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float


@dataclass
class RealData(Method):
    """``L_S = KL_tau(T(x), S(x))`` or ``CE(S(x), y)`` on real images, cropped and flipped.

    Attributes:
        loss: ``kd`` (distil from the teacher) or ``labels`` (train on the labels, no teacher).
        tau: temperature of the distillation.
        batch_size: images a step.
        crop: pad-and-crop shift in pixels; larger images are cut to the networks' size anywhere.
        flip: mirror at random; not for digits and letters.
        lr_s: SGD's learning rate, along a cosine.
        momentum: of SGD.
        weight_decay: of SGD.
    """

    paper: ClassVar[str] = "control: distillation with the real data (Hinton et al., arXiv:1503.02531)"
    needs: ClassVar[frozenset[str]] = frozenset({"real"})
    outside: ClassVar[tuple[str, ...]] = ("real training images", "their labels, with loss=labels")
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})
    control: ClassVar[bool] = True
    shows: ClassVar[Shows] = "real"

    loss: Literal["kd", "labels"] = "kd"
    tau: float = 4.0
    batch_size: int = 256
    crop: int = 4
    flip: bool = False
    lr_s: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def setup(self, engine: Engine) -> None:
        """The real images on the device, the frozen teacher and the student."""
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.pixels, self.labels = engine.real()
        self.teacher = engine.frozen(engine.given.teacher)
        self.task, self.network = engine.task, engine.given.student
        self.student, self.opt_s = engine.own("student", self.network, sgd, cosine)

    def phases(self, steps: int) -> list[Phase]:
        """One student step an iteration."""
        return [Phase("train", steps, self.step)]

    def step(self, engine: Engine) -> None:
        """One batch of real images, drawn with replacement."""
        index = engine.integers(len(self.pixels), self.batch_size)
        size = self.network.image_size
        shift = starts(engine.integers, self.batch_size, self.crop, self.pixels.shape, size)
        flip = engine.coins(self.batch_size) if self.flip else None
        images = to_float(self.pixels[index], engine.dtype)
        images, labels = self.task.crop_flip(images, self.labels[index], shift, flip, self.crop, size)
        engine.minimise(self.loss_s, self.opt_s, inputs=(images, labels))

    def loss_s(self, images: Tensor, labels: Tensor) -> Terms:
        """Student: agree with the teacher, or with the labels."""
        if self.loss == "labels":
            return {"cross_entropy": self.task.label_loss(self.student(images), labels)}
        with torch.no_grad():
            t = self.teacher(images).logits
        return {"kl": kl(self.student(images), t, self.tau)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Real images, as a draw."""
        return to_float(self.pixels[engine.integers(len(self.pixels), n)], engine.dtype)
