"""Control: HiDFD's student on the collected images alone. Only what HiDFD gains over this is its GAN's doing.

The student that reuses its teacher's classifier is strong by itself: a collection method with the same student reports
more than its teacher's accuracy, without any GAN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from dreamstill.data.collected import Select, ranked
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.feature_student import AlignedStudent, Augmentation, Schedule
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float


@dataclass
class CollectedOnly(Method):
    """``L_S = mean (p(S_map(x)) - T_map(x))^2`` on the collected images, repeated, cropped and flipped.

    Attributes:
        keep: most collected images used (HiDFD's 5000; this and all below are to be set as in the run compared with).
        select: ``confidence``: those of which the teacher is surest; ``class``: the surest of each of its classes in
            turn; ``flexible``: by confidence, ``min_confidence`` lowered for rare classes; ``random``.
        min_confidence: leave out images of which the teacher is less sure.
        align: ``map``: last feature maps where the networks have one; ``pooled``: what enters the classifiers.
        batch_size: images a step (HiDFD's 64).
        lr_s: SGD.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: ``step``: times 0.1 at 62.5, 75 and 87.5 %; ``cosine``; ``constant``.
        w_kl: weight of KL on the logits.
        tau: its temperature.
        augmentation: ``crop``: pad and shift; ``resized``: random parts of 8 to 100 % of the area.
        crop: pixels of the pad.
        flip: mirror at random; not for digits and letters.
    """

    paper: ClassVar[str] = "control: the collected images alone, HiDFD's student (SimKD, CVPR 2022)"
    needs: ClassVar[frozenset[str]] = frozenset({"collected", "linear_head"})
    outside: ClassVar[tuple[str, ...]] = ("a few collected unlabelled images",)
    tasks: ClassVar[frozenset[str]] = frozenset({"classification"})
    control: ClassVar[bool] = True
    shows: ClassVar[Shows] = "real"

    keep: int = 5_000
    select: Select = "confidence"
    min_confidence: float = 0.0
    align: Literal["map", "pooled"] = "map"
    batch_size: int = 64
    lr_s: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "step"
    w_kl: float = 0.0
    tau: float = 4.0
    augmentation: Augmentation = "crop"
    crop: int = 4
    flip: bool = False

    def setup(self, engine: Engine) -> None:
        """The collected images on the device, and the student on its teacher's classifier."""
        self.learner = AlignedStudent(
            engine, maps=self.align == "map", lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay,
            schedule=self.schedule, w_kl=self.w_kl, tau=self.tau, augmentation=self.augmentation, crop=self.crop,
            flip=self.flip,
        )  # fmt: skip
        self.pixels = engine.collected()
        self.ranking = ranked(self.learner.answer, self.pixels, self.select, self.min_confidence, self.keep)
        chosen = self.ranking.order
        if len(chosen) < self.batch_size:
            raise InputError(
                f"{len(chosen)} of {len(self.pixels)} collected images are kept and batch_size is {self.batch_size}: "
                "collect or keep more, or lower batch_size"
            )
        self.chosen = engine.buffer("chosen", chosen)

    def phases(self, steps: int) -> list[Phase]:
        """One student step an iteration."""
        return [Phase("distil", steps, self.step)]

    def step(self, engine: Engine) -> None:
        """Learn from the next batch, all in turn."""
        index = self.chosen[engine.sweep(len(self.chosen), self.batch_size)]
        self.learner.learn(engine, to_float(self.pixels[index], engine.dtype))

    def deliver(self) -> Network:
        """The student."""
        return self.learner.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Collected images, as a draw."""
        return to_float(self.pixels[self.chosen[engine.integers(len(self.chosen), n)]], engine.dtype)
