"""Control: the upper bounds. Distillation on the real training images, or plain training with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

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
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class RealData(Method):
    """``L_S = KL_tau(T(x), S(x))`` or ``CE(S(x), y)`` on real images, cropped and flipped."""

    paper: ClassVar[str] = "control: distillation with the real data (Hinton et al., arXiv:1503.02531)"
    needs: ClassVar[frozenset[str]] = frozenset({"real"})
    outside: ClassVar[tuple[str, ...]] = ("real training images", "their labels, with loss=labels")
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})
    control: ClassVar[bool] = True
    shows: ClassVar[Shows] = "real"

    # the objective
    loss: Literal["kd", "labels"] = "kd"
    """``kd``: distil from the teacher; ``labels``: train on the labels, without the teacher."""
    tau: Positive = 4.0
    """Temperature of the distillation (ours)."""
    # the images
    crop: Whole = 4
    """Images are padded by so many pixels and cropped back; larger ones are cropped to the networks' size (ours)."""
    flip: bool = False
    """Images are mirrored at random; not for digits and letters (ours)."""
    # optimisation
    batch_size: Annotated[Count, Small(16), Batch()] = 256
    """Images a step (ours)."""
    lr_s: Weight = 0.1
    """Learning rate of SGD, along a cosine (ours)."""
    momentum: Below1 = 0.9
    """Momentum of SGD (ours)."""
    weight_decay: Weight = 5e-4
    """Weight decay of SGD (ours)."""

    @property
    def reads_labels(self) -> bool:
        """Only plain training does."""
        return self.loss == "labels"

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
