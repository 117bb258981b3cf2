"""Control: HiDFD's student on the collected images alone. Only what HiDFD gains over this is its GAN's doing.

The student that reuses its teacher's classifier is strong by itself: a collection method with the same student reports
more than its teacher's accuracy, without any GAN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from dreamstill.data.collected import Select, ranked
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.feature_student import AlignedStudent, Augmentation, Schedule
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.ranges import Batch, Below1, Count, Positive, Share, Small, Weight, Whole


@dataclass
class CollectedOnly(Method):
    """``L_S = mean (p(S_map(x)) - T_map(x))^2`` on the collected images, repeated, cropped and flipped."""

    paper: ClassVar[str] = "control: the collected images alone, HiDFD's student (SimKD, CVPR 2022)"
    needs: ClassVar[frozenset[str]] = frozenset({"collected", "linear_head"})
    outside: ClassVar[tuple[str, ...]] = ("a few collected unlabelled images",)
    control: ClassVar[bool] = True
    shows: ClassVar[Shows] = "real"

    # the images (all settings are to be those of the HiDFD run compared with)
    keep: Count = 5_000
    """Most collected images used (HiDFD's code)."""
    select: Select = "confidence"
    """``confidence``: those of which the teacher is surest (inferred); ``class``: the surest of each class in turn;
    ``flexible``: by confidence, with ``min_confidence`` lowered for rare classes; ``random``."""
    min_confidence: Share = 0.0
    """Images of which the teacher is less sure are left out (inferred)."""
    augmentation: Augmentation = "crop"
    """``crop``: pad and shift (inferred); ``resized``: random parts of 8 to 100 % of the area (HiDFD's code)."""
    crop: Whole = 4
    """Pixels of the pad (inferred)."""
    flip: bool = False
    """Images are mirrored at random; not for digits and letters (inferred: off)."""
    # the objective
    align: Literal["map", "pooled"] = "map"
    """``map``: last feature maps if the networks have them (HiDFD's code); ``pooled``: what enters the classifiers."""
    w_kl: Weight = 0.0
    """Weight of KL on the logits (HiDFD's code)."""
    tau: Positive = 4.0
    """Temperature of KL (HiDFD's code)."""
    # optimisation
    batch_size: Annotated[Count, Small(16), Batch()] = 64
    """Images a step (HiDFD's code)."""
    lr_s: Weight = 0.05
    """Learning rate of SGD (HiDFD's code)."""
    momentum: Below1 = 0.9
    """Momentum of SGD (HiDFD's code)."""
    weight_decay: Weight = 5e-4
    """Weight decay of SGD (HiDFD's code)."""
    schedule: Schedule = "step"
    """``step``: times 0.1 at 62.5, 75 and 87.5 % (HiDFD's code)."""

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
