"""DeepInversion. Yin et al., CVPR 2020, arXiv:1912.08795. Page: docs/methods/deep_inversion.md.

Images are optimised as they are, without a generator, batch by batch: until the teacher sees their classes in them and
its batch norms meet the statistics they remember. Adaptive DeepInversion also prefers images on which the student
still differs.
Recipe: recipes/deep_inversion_fashion_lenet5.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.data.augment import roll_flip
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.errors import InputError
from dreamstill.losses.distillation import jensen_shannon, kl
from dreamstill.losses.image import distance_from_mean, total_variation
from dreamstill.losses.statistics import Over, bn_statistics
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.fixed_views import FixedViews
from dreamstill.methods.parts.optimised_images import Pixels, jitter
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class DeepInversion(Method):
    """``L_x = w_label CE(T(x), y) + w_tv TV(x) + w_l2 |x|^2 + w_bn L_BN(x) + w_adv (1 - JS(T(x), S(x)))``.

    x in the teacher's standardised pixels. ``L_S = KL_tau(T(x) || S(x))``. Without ``w_adv`` it is DeepInversion: all
    images first, then the student. With it, it is Adaptive DeepInversion: both in turns.
    """

    paper: ClassVar[str] = (
        "Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, CVPR 2020, arXiv:1912.08795"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient"})
    spares: ClassVar[dict[str, str]] = {"bn": "w_bn 0"}
    shows: ClassVar[Shows] = "stored"
    paper_settings: ClassVar[dict[str, Any]] = {"inner_steps": 2000, "bn_over": "sum"}  # on CIFAR-10

    # the images
    inner_steps: Annotated[Count, Small(2)] = 500
    """Steps of Adam on a batch of images (ours; paper, as remembered: 2,000 on CIFAR-10)."""
    images: Annotated[Count, Batch(), Small(16)] = 256
    """Images that are optimised together (released code)."""
    n_images: Annotated[Count, Small(32)] = 5120
    """Images kept, in whole batches; without ``w_adv`` also how many are made (ours)."""
    w_label: Weight = 1.0
    """Weight of the teacher's cross-entropy with the class that was drawn (paper)."""
    w_bn: Weight = 10.0
    """Weight of L_BN (released code: 10, for the sum over the layers)."""
    bn_over: Over = "mean"
    """L_BN is the ``mean`` over the layers (ours), or their ``sum`` (paper)."""
    w_tv: Weight = 0.02
    """Weight of the total variation, a mean square (ours, for about the gradient of the paper's 2.5e-5 of a norm)."""
    w_l2: Weight = 1e-5
    """Weight of the mean square of the pixels (ours, for about the gradient of the paper's 3e-8 of a norm)."""
    w_adv: Weight = 0.0
    """Weight of the adversarial term; above 0 it is Adaptive DeepInversion (paper, as remembered: 10 on CIFAR-10)."""
    jitter: bool = True
    """Roll images by up to an eighth of their sides before the teacher (paper on ImageNet: 30 of 224 pixels)."""
    flip: bool = True
    """Mirror images at random, before the student too; not for digits and letters (released code)."""
    pixels: Literal["clamp", "free"] = "clamp"
    """After each step: each value to black or white at most, or as it is (ours)."""
    lr_x: Weight = 0.05
    """Learning rate of Adam, in standard deviations of the teacher's pixels (released code)."""
    # what the student sees
    crop: Whole = 4
    """Stored images are padded by so many pixels and cropped back (ours)."""
    views: Count = 8
    """Fixed crops of each stored image whose logits are kept: a student step then needs no teacher (ours)."""
    tau: Positive = 20.0
    """Temperature of the distillation (a later re-run by others; the paper's could not be read)."""
    # optimisation
    student_steps: Annotated[Count, Small(2)] = 40
    """With ``w_adv``: student steps to each new batch of images (ours)."""
    warmup: Annotated[Count, Small(1)] = 10
    """With ``w_adv``: batches of images before the student begins (ours)."""
    batch_size: Annotated[Count, Small(16), Batch()] = 64
    """Images of a student step (ours)."""
    lr_s: Weight = 0.1
    """Learning rate of the student's SGD, along a cosine (ours)."""
    momentum: Below1 = 0.9
    """Momentum of the student's SGD (ours)."""
    weight_decay: Weight = 5e-4
    """Weight decay of the student's SGD (ours)."""

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        return self.needs - {"bn"} if self.w_bn == 0 else self.needs

    @property
    def batches(self) -> int:
        """How many batches of images are kept."""
        return -(-self.n_images // self.images)

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the images of one batch, the student and what is stored."""
        given, self.mine = engine.given, engine.mine
        teacher, self.network = given.teacher, given.student
        self.teacher = engine.frozen(teacher, bn=self.w_bn > 0)
        self.mean, self.std = teacher.mean, teacher.std
        self.canvas = Pixels(self.images, teacher.channels, *teacher.image_size)
        adam = partial(Adam, lr=self.lr_x * float(self.std.mean()))
        self.made, self.opt_x = engine.own("images", self.canvas, adam)
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.student, self.opt_s = engine.own("student", self.network, sgd, cosine)
        kept = self.batches * self.images
        self.fixed = FixedViews(engine, kept, self.views, self.crop, self.flip, wide=self.pixels == "free")

    def phases(self, steps: int) -> list[Phase]:
        """All images, then the student; with ``w_adv`` some images, then both in turns."""
        if self.w_adv == 0:
            return [
                Phase("synthesise", self.batches, self.synthesis, alike=True),
                Phase("distil", steps, self.student_step),
            ]
        return [
            Phase("warm up", self.warmup, self.synthesis, alike=True),
            Phase("distil", -(-steps // self.student_steps), self.step, alike=True),
        ]

    def step(self, engine: Engine) -> None:
        """Adaptive DeepInversion: a batch of images against the student of now, and the student's steps on all."""
        self.synthesis(engine)
        for _ in range(self.student_steps):
            self.student_step(engine)

    def synthesis(self, engine: Engine) -> None:
        """Optimise a batch of images and store it."""
        # 1. Begin with Gaussian noise, and draw the classes that the images are to have.
        pixels = self.canvas.images
        noise = engine.gather(engine.noise(self.images, *pixels.shape[1:]))
        self.canvas.start(noise, "normal", engine.given.teacher)
        y = engine.labels(self.images)
        engine.restart(self.opt_x)
        # 2. Descend L_x on the pixels, seen through a new jitter in each step.
        self.student.eval()
        for _ in range(self.inner_steps):
            by = jitter(engine, pixels.shape, self.flip) if self.jitter else ()
            engine.minimise(self.loss_x, self.opt_x, inputs=(y, *by))
            self.canvas.settle(self.pixels)
        self.student.train()
        # 3. Keep them, with the teacher's logits of some views of each.
        self.fixed.add(engine, engine.mine(pixels.detach()), y, self.teacher)

    def loss_x(self, y: Tensor, shift: Tensor | None = None, flip: Tensor | None = None) -> Terms:
        """``L_x``: the class, the image prior, the statistics, and where it has a weight the student's difference."""
        x = self.mine(self.made())
        if shift is not None and flip is not None:
            x = roll_flip(x, shift, flip)
        t = self.teacher(x, stats=self.w_bn > 0)
        terms = {"label": self.w_label * F.cross_entropy(t.logits, y)}
        standardised = (x - self.mean) / self.std
        if self.w_tv > 0:
            terms["tv"] = self.w_tv * total_variation(standardised)
        if self.w_l2 > 0:
            terms["l2"] = self.w_l2 * distance_from_mean(standardised, torch.zeros_like(self.mean))
        if self.w_bn > 0:
            terms["bn"] = self.w_bn * bn_statistics(t.moments, over=self.bn_over)
        if self.w_adv > 0:
            terms["adversarial"] = self.w_adv * (1 - jensen_shannon(self.student(x), t.logits))
        return terms

    def student_step(self, engine: Engine) -> None:
        """One step of the student on stored images."""
        # 4. The student learns the teacher's answers, which are known.
        x, t = self.fixed.draw(engine, self.batch_size)
        engine.minimise(self.loss_s, self.opt_s, inputs=(x, t))

    def loss_s(self, x: Tensor, t: Tensor) -> Terms:
        """``L_S``: KL at temperature tau with the stored logits."""
        return {"kl": kl(self.student(x), t, self.tau)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """A draw from the stored images."""
        if len(self.fixed.bank) == 0:
            raise InputError(f"no batch of images is finished ({self.inner_steps} steps each): resume the run")
        return self.fixed.bank.draw(engine.integers(len(self.fixed.bank), n), engine.dtype).images

    def check(self, task: str) -> None:
        """Refuse settings that contradict each other."""
        if not (self.w_label or self.w_bn):
            raise InputError("w_label and w_bn are 0, so nothing of the teacher is in the images: give one of them")
