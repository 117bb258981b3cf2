"""Plain distillation on a stored transfer set: many students from images that were made once.

The set is what ``dreamstill synthesize`` wrote of another run. Where the images are taken as stored, an iteration costs
the student alone, since the teacher's logits lie beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import SGD

from dreamstill.data.augment import crop_flip, warp
from dreamstill.data.storage import rows
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import constant, cosine
from dreamstill.losses.distillation import kl, l1
from dreamstill.methods import Method, Phase, Shows
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float


@dataclass
class Transfer(Method):
    """``L_S = KL_tau(T(x), S(x))`` or ``mean |S(x) - T(x)|`` on the stored images.

    Attributes:
        loss: ``kl`` at temperature ``tau``, or ``l1`` on the logits.
        tau: temperature of ``kl``.
        batch_size: images a step, drawn with replacement.
        crop: pad-and-crop shift in pixels; the teacher says anew what it sees in moved images.
        flip: mirror at random, likewise; not for digits and letters.
        warp: turn, stretch and shear, likewise; 1: by up to 15 degrees, 15 % and 0.2.
        lr_s: SGD's learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: ``cosine`` or ``constant``.
    """

    paper: ClassVar[str] = "distillation on a stored transfer set (Hinton et al., arXiv:1503.02531)"
    needs: ClassVar[frozenset[str]] = frozenset({"transfer"})
    outside: ClassVar[tuple[str, ...]] = ("what the run used that made the transfer set",)
    tasks: ClassVar[frozenset[str]] = frozenset({"classification"})
    control: ClassVar[bool] = True
    shows: ClassVar[Shows] = "stored"

    loss: Literal["kl", "l1"] = "kl"
    tau: float = 4.0
    batch_size: int = 256
    crop: int = 0
    flip: bool = False
    warp: float = 0.0
    lr_s: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"

    def setup(self, engine: Engine) -> None:
        """The stored images and logits on the device, the frozen teacher and the student."""
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.pixels, self.logits = engine.transfer()
        self.teacher = engine.frozen(engine.given.teacher)
        self.network = engine.given.student
        decay = {"cosine": cosine, "constant": constant}[self.schedule]
        self.student, self.opt_s = engine.own("student", self.network, sgd, decay)

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
        shift = engine.integers(2 * self.crop + 1, self.batch_size, 2)
        images = crop_flip(images, shift, engine.coins(self.batch_size) if self.flip else None, self.crop)
        if self.warp:
            images = warp(images, engine.uniform(self.batch_size, 4), self.warp)
        engine.minimise(self.loss_s, self.opt_s, inputs=(images,))

    def loss_s(self, images: Tensor, t: Tensor | None = None) -> Terms:
        """Student: agree with the teacher, whose logits may be known."""
        if t is None:
            with torch.no_grad():
                t = self.teacher(images).logits
        s = self.student(images)
        return {"distance": kl(s, t, self.tau) if self.loss == "kl" else l1(s, t)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Stored images, as a draw."""
        return to_float(rows(self.pixels, engine.integers(len(self.pixels), n)), engine.dtype)
