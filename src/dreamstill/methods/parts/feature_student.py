"""A student that learns its teacher's features and answers through its teacher's classifier: SimKD's training.

HiDFD and its control share it, so that what differs between them is the images alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD

from dreamstill.data.augment import crop_flip, resized_crop
from dreamstill.engine import Engine, Terms
from dreamstill.errors import InputError
from dreamstill.losses.distillation import kl, mse
from dreamstill.methods.parts.decay import decay
from dreamstill.networks.pixels import to_float
from dreamstill.networks.reused_classifier import TAP, last_map, share_classifier

Schedule = Literal["step", "cosine", "constant"]
Augmentation = Literal["crop", "resized"]
LOOKED_AT = 64  # images on which the networks' last maps are found


class AlignedStudent:
    """``L_S = mean (p(S_map(x)) - T_map(x))^2 (+ w_kl KL)``; sees neither labels nor where an image comes from.

    Args:
        engine: whose teacher, student and collected images are used.
        maps: align the last feature maps where both networks have one, else the vectors that enter the classifiers.
        lr: SGD's learning rate.
        momentum: of SGD.
        weight_decay: of SGD, on the projector and batch norms too.
        schedule: ``step``: times 0.1 at 62.5, 75 and 87.5 % of the phase; ``cosine``; ``constant``.
        w_kl: weight of ``tau^2 KL(T || S)`` on the logits.
        tau: its temperature.
        augmentation: ``crop``: pad, shift back and mirror; ``resized``: a random part of 8 to 100 % of the area, scaled
            up.
        crop: pixels of the pad.
        flip: mirror at random.
        mean: per channel, statistics with which the student's phase standardises in place of the networks' own.
        std: per channel, given with ``mean``.
    """

    def __init__(
        self, engine: Engine, *, maps: bool, lr: float, momentum: float, weight_decay: float, schedule: Schedule,
        w_kl: float, tau: float, augmentation: Augmentation, crop: int, flip: bool,
        mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        teacher, student = engine.given.teacher, engine.given.student
        some = to_float(engine.collected()[:LOOKED_AT])
        self.target, mine = last_map(teacher, some, maps), last_map(student, some, maps)
        self.network = share_classifier(student, mine, teacher, self.target)
        self.size, self.features = self.network.kwargs["size"], int(self.network.kwargs["features"])
        self.vector = f"{self.target.head}:input"
        self.teacher = engine.frozen(teacher, taps=tuple({self.target.tap: 0, self.vector: 0}))
        sgd = partial(SGD, lr=lr, momentum=momentum, weight_decay=weight_decay)
        falling = decay(schedule, (0.625, 0.75, 0.875))
        self.student, self.opt = engine.own("student", self.network, sgd, falling, taps=(TAP,))
        self.dtype = engine.dtype
        self.w_kl, self.tau, self.augmentation, self.crop, self.flip = w_kl, tau, augmentation, crop, flip
        self.scale = self._other_statistics(engine, mean, std)

    def answer(self, images: Tensor) -> Tensor:
        """The teacher's logits (``b k``) of images."""
        return self.teacher(images.to(self.dtype)).logits

    def learn(self, engine: Engine, images: Tensor) -> None:
        """One step on images (``b c h w``, [0, 1]), augmented first."""
        images = self.augmented(engine, images)
        if self.scale is not None:
            images = images * self.scale[0] + self.scale[1]
        engine.minimise(self.loss, self.opt, inputs=(images,))

    def loss(self, images: Tensor) -> Terms:
        """The teacher's features, and its logits where they have a weight."""
        with torch.no_grad():
            t = self.teacher(images)
            target = self.target.read(t.taps[self.target.tap])
            if list(target.shape[2:]) != self.size:
                target = F.adaptive_avg_pool2d(target, self.size)
        s = self.student(images)
        terms = {"alignment": mse(s.taps[TAP], target)}
        if self.w_kl > 0:
            terms["kl"] = self.w_kl * kl(s.logits, t.logits, self.tau)
        return terms

    def augmented(self, engine: Engine, images: Tensor) -> Tensor:
        """Each image cropped and mirrored by its own draw."""
        n = len(images) * engine.ranks
        flip = engine.coins(n) if self.flip else None
        if self.augmentation == "resized":
            return resized_crop(images, engine.uniform(n, 4), flip)
        return crop_flip(images, engine.integers(2 * self.crop + 1, n, 2), flip, self.crop)

    def _other_statistics(
        self, engine: Engine, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> tuple[Tensor, Tensor] | None:
        """Factor and offset that make images look, once standardised as usual, standardised with ``mean``, ``std``."""
        if mean is None and std is None:
            return None
        network = engine.given.teacher
        if mean is None or std is None or not len(mean) == len(std) == network.channels or min(std) <= 0:
            raise InputError(
                f"student_mean is {mean} and student_std is {std}: give both, one positive std a channel "
                f"({network.channels}), or neither"
            )
        other_mean, other_std = (torch.tensor(v).view(1, -1, 1, 1).to(network.mean) for v in (mean, std))
        return network.std / other_std, network.mean - other_mean * network.std / other_std
