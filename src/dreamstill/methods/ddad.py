"""DDAD: dual discriminator adversarial distillation. Zhao et al., arXiv:2104.05382 (2021).

The paper's body could not be read; its abstract says: teacher and student together are one discriminator, the
teacher's batch-norm statistics the other. What is inferred below follows DFAD (Fang et al., arXiv:1912.11006), whose
released schedule DDAD's experiments extend, and DeepInversion's batch-norm term. ``alpha = 0`` is exactly DFAD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.data.augment import crop_flip
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import constant, cosine, step_decay
from dreamstill.errors import InputError
from dreamstill.losses.distillation import kl, l1, mse
from dreamstill.losses.prior import balance, onehot
from dreamstill.losses.statistics import Form, bn_statistics
from dreamstill.methods import Method, Phase
from dreamstill.networks.generators import Generator, Head, LargeGenerator
from dreamstill.networks.network import Network


@dataclass
class DDAD(Method):
    """``L_S = D(x)``;  ``L_G = -D(x) + alpha L_BN(x)``;  ``D(x) = mean |S(x) - T(x)|``,  ``x = G(z)``.

    For dense prediction ``L_G = -log(1 + D(x)) + alpha L_BN(x)`` (DFAD).

    Attributes:
        alpha: weight of the layer-averaged batch-norm term (inferred: 1; 0 is DFAD). ``auto``: ``alpha_ratio`` times
            D(x) after the student's first ``alpha_after`` steps, on the untrained generator's images, over L_BN of a
            batch of these after each iteration; the generator waits as long. (Inferred, for a term of any size.)
        alpha_ratio: of ``auto``: how many times the first discriminator weighs the second; None is 3, and 1 for dense
            prediction, where the logarithm holds the second down (inferred).
        alpha_after: of ``auto`` (inferred: 100).
        adversarial: ``plain``: -D(x); ``log``: -log(1 + D(x)), which a large D moves less; ``auto``: what DFAD has for
            the task.
        w_adv: weight of the adversarial term (DFAD: 1); 0 leaves the first discriminator alone, an ablation.
        bn_form: ``norm`` (DeepInversion), ``squared`` or ``gaussian_kl``.
        bn_pooled: whether a dense teacher's batch norms of one value a channel and image (DeepLab's image pooling) are
            compared too: their batch statistics are of ``batch_size`` values only (inferred: off).
        discrepancy: ``l1`` on logits (DFAD), ``mse``, or ``kl`` at temperature ``tau``.
        tau: temperature of ``kl``.
        student_steps: student steps an iteration (DFAD: 5), each on its own batch.
        generator_steps: generator steps an iteration (DFAD: 1).
        batch_size: images a step (DFAD on CIFAR: 256).
        nz: noise length (DFAD: 256).
        width: the generator's ``ngf`` (DFAD: 64).
        size: ``small``: DFAD's generator for about 32 pixels; ``large``: its DCGAN type for 128 and about.
        head: how the small generator ends: ``standardised`` (DFAD), or ``tanh``, as the large one, for a teacher whose
            mean and std are not its images' own (0.5 and 0.5, say); ``linear``: DFAD's without its tanh (ours).
        lr_g: Adam, DFAD's 1e-3.
        lr_s: SGD, DFAD's 0.1.
        momentum: of the student's SGD, DFAD's 0.9.
        weight_decay: DFAD's 5e-4.
        schedule: ``step``: times 0.1 at 20 % and 40 % of the run, as DFAD's CIFAR script; ``thirds``: at a third and
            two thirds, as its scripts for larger images; ``cosine``; ``constant``.
        student_mode: the student's mode in the generator's step; DFAD leaves it in ``train``.
        clip: largest gradient norm of the generator's step; None leaves it alone. (-D is unbounded below.)
        w_onehot: DAFL's certainty term on the teacher's output, off: not part of DDAD.
        w_balance: DAFL's class balance term, off: not part of DDAD.
        replay: share of an iteration's student steps that train on stored images instead of fresh ones, below 1, in
            whole steps (with 5 of them: 0.2, 0.4, ...); 0 in the paper.
        bank: how many images are stored for replay.
        crop: pad-and-crop shift of replayed images in pixels.
        flip: mirror replayed images at random; not for digits and letters.
        reuse: learn from the generator step's own images, stored with the teacher's logits, instead of making some for
            each student step: one pass of generator and teacher an iteration in place of six. Not in the paper.
    """

    paper: ClassVar[str] = "Zhao et al., Dual Discriminator Adversarial Distillation, arXiv:2104.05382, 2021"
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "sides"})
    outside: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})

    alpha: float | Literal["auto"] = 1.0
    alpha_ratio: float | None = None
    alpha_after: int = 100
    adversarial: Literal["auto", "plain", "log"] = "auto"
    w_adv: float = 1.0
    bn_form: Form = "norm"
    bn_pooled: bool = False
    discrepancy: Literal["l1", "mse", "kl"] = "l1"
    tau: float = 1.0
    student_steps: int = 5
    generator_steps: int = 1
    batch_size: int = 256
    nz: int = 256
    width: int = 64
    size: Literal["small", "large"] = "small"
    head: Head = "standardised"
    lr_g: float = 1e-3
    lr_s: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["step", "thirds", "cosine", "constant"] = "step"
    student_mode: Literal["train", "eval"] = "train"
    clip: float | None = None
    w_onehot: float = 0.0
    w_balance: float = 0.0
    replay: float = 0.0
    bank: int = 20_000
    crop: int = 0
    flip: bool = False
    reuse: bool = False

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher: DFAD reads no statistics."""
        return self.needs if self.reads_bn else self.needs - {"bn"}

    @property
    def reads_bn(self) -> bool:
        """Whether there is a first discriminator."""
        return self.alpha == "auto" or self.alpha > 0

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the generator and the student, each with its optimiser."""
        replayed = self.replay * self.student_steps
        if self.replay >= 1 or abs(replayed - round(replayed)) > 1e-6:
            raise InputError(
                f"replay is {self.replay} of {self.student_steps} student steps an iteration: it must be below 1 and "
                "make a whole number of steps"
            )
        if not self.reads_bn and self.w_adv == 0:
            raise InputError("alpha and w_adv are 0, so the generator has no loss: give one of them")
        usual = 3.0 if engine.task.name == "classification" else 1.0
        self.ratio = usual if self.alpha_ratio is None else self.alpha_ratio
        if self.alpha == "auto" and not (self.ratio > 0 and self.alpha_after > 0):
            raise InputError(
                f"alpha is auto with alpha_ratio {self.ratio} and alpha_after {self.alpha_after}: give both "
                "above 0, or alpha as a number"
            )
        if self.reuse and self.generator_steps < 1:
            raise InputError(
                f"generator_steps is {self.generator_steps}, and reuse learns from their images: give 1 or more"
            )
        if self.size == "large" and self.head == "linear":
            raise InputError(
                "head is linear, and the large generator ends in a tanh: leave head out, or take size small"
            )
        if self.reuse and (self.replay or self.crop or self.flip):
            raise InputError(
                "reuse keeps the teacher's logits of whole images: leave out replay, crop and flip with it"
            )
        if self.reuse and engine.task.name == "segmentation":
            raise InputError(
                "reuse stores the teacher's logits of whole images, and those of a segmentation teacher take many "
                "times the images' memory: leave it out, or take replay, which stores images alone"
            )
        steps = {"step": step_decay((0.2, 0.4), 0.1), "thirds": step_decay((1 / 3, 2 / 3), 0.1)}
        decay = {**steps, "cosine": cosine, "constant": constant}[self.schedule]
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        teacher = engine.given.teacher
        small = partial(Generator, head=self.head)
        generator = (LargeGenerator if self.size == "large" else small)(teacher, self.nz, self.width)
        self.teacher = engine.frozen(engine.given.teacher, bn=self.reads_bn, bn_pooled=self.bn_pooled)
        self.generator, self.opt_g = engine.own("generator", generator, partial(Adam, lr=self.lr_g), decay, self.clip)
        self.network = engine.given.student
        self.student, self.opt_s = engine.own("student", self.network, sgd, decay)
        self.weight: float | Tensor
        if self.alpha == "auto":
            self.weight = engine.buffer("alpha", torch.zeros((), dtype=engine.dtype))
            self.weighed = engine.buffer("weighed", torch.zeros(2, dtype=engine.dtype))  # the sum of L_BN, and of what
        else:
            self.weight = self.alpha
        stores = self.replay > 0 or self.reuse
        self.stored = engine.bank("images", self.bank, logits=self.reuse, wide=generator.wide) if stores else None
        self.gather, self.average = engine.gather, engine.average
        self.reward: Callable[[Tensor], Tensor] = {
            "auto": engine.task.adversarial, "plain": lambda d: -d, "log": lambda d: -torch.log1p(d)
        }[self.adversarial]  # fmt: skip

    def phases(self, steps: int) -> list[Phase]:
        """An iteration is ``student_steps`` student steps and then the generator's; ``auto`` weighs alpha before."""
        iterations = -(-steps // self.student_steps)
        first = min(-(-self.alpha_after // self.student_steps), iterations) if self.alpha == "auto" else 0
        phases = [Phase("weigh", first, self.weigh), Phase("distil", iterations - first, self.step)]
        return [phase for phase in phases if phase.iterations]

    def weigh(self, engine: Engine) -> None:
        """Student steps on the untrained generator's images, and on one more batch what alpha is made of."""
        engine.progress = 0.0  # the schedules begin with the generator
        for _ in range(self.student_steps):
            engine.minimise(self.loss_s, self.opt_s, inputs=(self.make(engine),))
        assert isinstance(self.weight, Tensor)
        with torch.no_grad():
            images = self.make(engine)
            t = self.teacher(images, stats=True)
            discrepancy = self.average(self.distance(self.student(images), t.logits))
            statistics = bn_statistics(t.moments, self.bn_form)
            self.weighed += torch.stack([statistics, torch.ones_like(statistics)])
            self.weight.copy_(self.ratio * discrepancy * self.weighed[1] / self.weighed[0])
        engine.observe("generator", {"alpha": self.weight})

    def step(self, engine: Engine) -> None:
        """Algorithm: imitate on several batches, then look for images where student and teacher differ."""
        if self.reuse:
            return self.reusing_step(engine)
        for i in range(self.student_steps):
            images = self.images(engine, fresh=i >= round(self.replay * self.student_steps))
            engine.minimise(self.loss_s, self.opt_s, inputs=(images,))
        self.student.train(self.student_mode == "train")
        for _ in range(self.generator_steps):
            engine.minimise(self.loss_g, self.opt_g, inputs=(engine.noise(self.batch_size, self.nz),))
        self.student.train()

    def reusing_step(self, engine: Engine) -> None:
        """The same, the generator first: the student imitates on what it made, and then on what it made before."""
        assert self.stored is not None
        self.student.train(self.student_mode == "train")
        for _ in range(self.generator_steps):
            noise = engine.noise(self.batch_size, self.nz)
            images, t = engine.minimise(self.loss_g, self.opt_g, inputs=(noise,))
            self.stored.add(engine.gather(images), logits=engine.gather(t))
        self.student.train()
        engine.minimise(self.loss_s, self.opt_s, inputs=(images, t))
        for _ in range(self.student_steps - 1):
            old = self.stored.draw(engine.integers(len(self.stored), self.batch_size), engine.dtype)
            engine.minimise(self.loss_s, self.opt_s, inputs=(old.images, old.logits))

    def loss_s(self, images: Tensor, t: Tensor | None = None) -> Terms:
        """Student: agree with the teacher, whose logits may be known."""
        if t is None:
            with torch.no_grad():
                t = self.teacher(images).logits
        return {"discrepancy": self.distance(self.student(images), t)}

    def loss_g(self, z: Tensor) -> tuple[Terms, tuple[Tensor, Tensor]]:
        """Generator: find disagreement (second discriminator) among images the teacher's BN layers know (first)."""
        images = self.generator(z)
        t = self.teacher(images, stats=self.reads_bn)
        terms = {}
        if self.w_adv > 0:
            # The mean over ranks before the logarithm that segmentation takes of it, not after.
            discrepancy = self.average(self.distance(self.student(images), t.logits))
            terms["adversarial"] = self.w_adv * self.reward(discrepancy)
        if self.reads_bn:
            terms["bn"] = self.weight * bn_statistics(t.moments, self.bn_form)
        if self.w_onehot > 0:
            terms["onehot"] = self.w_onehot * onehot(t.logits)
        if self.w_balance > 0:
            terms["balance"] = self.w_balance * balance(self.gather(t.logits))
        return terms, (images, t.logits)

    def distance(self, s: Tensor, t: Tensor) -> Tensor:
        """D, from logits."""
        return kl(s, t, self.tau) if self.discrepancy == "kl" else {"l1": l1, "mse": mse}[self.discrepancy](s, t)

    def images(self, engine: Engine, fresh: bool) -> Tensor:
        """A batch for the student: made now (and stored, where there is replay), or stored earlier."""
        if self.stored is None:
            return self.make(engine)
        if fresh or len(self.stored) == 0:
            images = self.make(engine)
            self.stored.add(engine.gather(images))
            return images
        images = self.stored.draw(engine.integers(len(self.stored), self.batch_size), engine.dtype).images
        shift = engine.integers(2 * self.crop + 1, self.batch_size, 2)
        return crop_flip(images, shift, engine.coins(self.batch_size) if self.flip else None, self.crop)

    def make(self, engine: Engine) -> Tensor:
        """A batch of the generator's."""
        return engine.make(self.generator, engine.noise(self.batch_size, self.nz))

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of the generator, in batches of training size."""
        batches = range(-(-n // self.batch_size))
        return torch.cat([self.make(engine) for _ in batches])[:n]
