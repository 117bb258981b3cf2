"""Plain distillation on a stored transfer set: many students from images that were made once.

The set is what ``dreamstill synthesize`` wrote of another run. Where the images are taken as stored, an iteration costs
the student alone, since the teacher's logits lie beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import SGD

from dreamstill.data.augment import warp
from dreamstill.data.storage import rows
from dreamstill.engine import Engine, Terms
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.decay import decay
from dreamstill.methods.parts.distance import distance
from dreamstill.methods.parts.replay import shifted
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class Transfer(Method):
    """``L_S = KL_tau(T(x), S(x))`` or ``mean |S(x) - T(x)|`` on the stored images."""

    paper: ClassVar[str] = "distillation on a stored transfer set (Hinton et al., arXiv:1503.02531)"
    needs: ClassVar[frozenset[str]] = frozenset({"transfer"})
    outside: ClassVar[tuple[str, ...]] = ("what the run used that made the transfer set",)
    control: ClassVar[bool] = True
    shows: ClassVar[Shows] = "stored"

    # the objective
    loss: Literal["kl", "l1"] = "kl"
    """``kl`` at temperature ``tau``, or ``l1`` on the logits."""
    tau: Positive = 4.0
    """Temperature of ``kl`` (ours)."""
    # the images
    crop: Whole = 0
    """Images are padded by so many pixels and cropped back; the teacher is asked again about moved ones (ours)."""
    flip: bool = False
    """Images are mirrored at random, and the teacher asked again; not for digits and letters (ours)."""
    warp: Weight = 0.0
    """Images are turned, stretched and sheared; 1: by up to 15 degrees, 15 % and 0.2 (ours)."""
    # optimisation
    batch_size: Annotated[Count, Small(16), Batch()] = 256
    """Images a step, drawn with replacement (ours)."""
    lr_s: Weight = 0.1
    """Learning rate of SGD (ours)."""
    momentum: Below1 = 0.9
    """Momentum of SGD (ours)."""
    weight_decay: Weight = 5e-4
    """Weight decay of SGD (ours)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate (ours)."""

    def setup(self, engine: Engine) -> None:
        """The stored images and logits on the device, the frozen teacher and the student."""
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.pixels, self.logits = engine.transfer()
        self.teacher = engine.frozen(engine.given.teacher)
        self.network = engine.given.student
        self.student, self.opt_s = engine.own("student", self.network, sgd, decay(self.schedule))
        self.distance = distance(self.loss, self.tau)

    def phases(self, steps: int) -> list[Phase]:
        """One student step an iteration."""
        return [Phase("distil", steps, self.step)]

    def step(self, engine: Engine) -> None:
        """One batch: as stored, with the stored logits; or moved, and the teacher is asked."""
        index = engine.integers(len(self.pixels), self.batch_size)
        images = to_float(rows(self.pixels, index), engine.dtype)
        if not (self.crop or self.flip or self.warp):
            logits = rows(self.logits, index).to(engine.dtype)
            return engine.minimise(self.loss_s, self.opt_s, inputs=(images, logits))
        images = shifted(engine, images, self.batch_size, self.crop, self.flip)
        if self.warp:
            images = warp(images, engine.uniform(self.batch_size, 4), self.warp)
        engine.minimise(self.loss_s, self.opt_s, inputs=(images,))

    def loss_s(self, images: Tensor, t: Tensor | None = None) -> Terms:
        """Student: agree with the teacher, whose logits may be known."""
        if t is None:
            with torch.no_grad():
                t = self.teacher(images).logits
        return {"distance": self.distance(self.student(images), t)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Stored images, as a draw."""
        return to_float(rows(self.pixels, engine.integers(len(self.pixels), n)), engine.dtype)
