"""CGDD: conditional generative data-free distillation. Yu et al., arXiv:2112.15358 (2021, v4 2022).

Only the abstracts could be read, and no code was released. They say: preset labels are the ground truth on which a
conditional generator is trained; the student learns from the teacher's outputs, from the preset labels and from the
teacher's attention maps (v1); several losses make an adversarial framework (v4). All else here is inferred, on DFAD's
released schedule (Fang et al., arXiv:1912.11006).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.data.augment import crop_flip
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import constant, cosine, step_decay
from dreamstill.errors import InputError
from dreamstill.losses.attention import AttentionForm, attention_distance, hint_distance
from dreamstill.losses.distillation import kl, l1
from dreamstill.losses.prior import activation
from dreamstill.losses.statistics import Form, bn_statistics
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.feature_pairs import Adapters, comparable, paired, stages
from dreamstill.networks.generators import Condition, Generator, Head, LargeGenerator
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Observed, last_linear


@dataclass
class CGDD(Method):
    """``x = G(z, y)``, ``y`` a preset label drawn uniformly.

    ``L_G = w_cls CE(T(x), y) + w_bn L_BN(x) - w_adv mean |T(x) - S(x)|  (+ w_act L_act - w_adv_maps L_AT)``
    ``L_S = KL_tau(T(x) || S(x)) + w_lab CE(S(x), y) [only x that T takes for y] + w_at L_AT(x)``
    ``L_AT = sum over stages of ||q_S - q_T||_2``, ``q`` the unit-length map of mean squared activation.

    The log's ``student/kept`` is the share of images that the teacher takes for their preset class.

    Attributes:
        mode: ``alternating`` (v4's adversarial framework), or ``two_stage`` (v1: the generator is trained alone, then
            frozen, in eval mode, while the student learns; no adversarial terms).
        condition: how the label enters the generator: ``concat`` (inferred), ``multiply``, ``ccbn``; ``none`` drops
            the label from generator and losses (an ablation).
        w_cls: weight of the generator's cross-entropy with the preset label (the term: paper; 1: inferred).
        w_bn: weight of the layer-averaged batch-norm term (inferred: 1).
        bn_form: ``squared`` norms (inferred), ``norm`` or ``gaussian_kl``.
        w_act: weight of DAFL's activation term (inferred: off).
        w_adv: final weight of the adversarial term (the framework: paper v4; L1 on logits and 1: inferred from DFAD).
        w_adv_maps: final weight of an adversarial term on attention maps (inferred: off).
        ramp: share of the adversarial phase over which both those weights grow linearly from 0 (inferred: 0.1).
        pre: share of all iterations, below 1, that go before: the generator alone, no adversarial terms (inferred:
            0.05); ``alternating`` only.
        stage_one: share of stage one in all optimiser steps, below 1; ``two_stage`` only (inferred: 0.5).
        kd: the student's distillation loss: ``kl`` (the term: paper; the form: inferred) or ``l1`` on logits (DFAD).
        tau: temperature of ``kl`` (inferred: 4).
        w_lab: weight of the student's cross-entropy with the preset label (the term: paper v1; 0.3: inferred).
        mask: leave out of that term what the teacher does not take for its preset class (inferred); off is v1 read
            literally.
        feat: what is compared between the networks' stages: ``attention`` (paper v1), or ``hint``: the maps themselves,
            the student's through a trained 1x1 convolution and batch norm (an ablation).
        w_at: weight of that term in the student's loss (the term: paper v1; 1: inferred, for ``norm``; the digits'
            small student lost with 10, on real images too, see ``docs/methods/cgdd.md``).
        at_form: ``norm``, or ``squared``, whose weight ought to be 100 to 1000 (inferred).
        teacher_taps: names of the teacher's layers whose maps are compared; None: its built-in stages.
        student_taps: the student's; paired with the teacher's from the last backwards.
        student_steps: student steps an iteration, each on its own batch (inferred from DFAD: 5).
        generator_steps: generator steps an iteration (inferred from DFAD: 1).
        batch_size: images a step (inferred from DFAD: 256).
        nz: noise length (inferred from DFAD: 256).
        width: the generator's ``ngf`` (inferred from DFAD: 64).
        size: ``small``: DFAD's generator for about 32 pixels; ``large``: DCGAN type for 64 to 224 (inferred).
        head: how the small generator ends: ``standardised`` (inferred from DFAD), ``linear`` or ``tanh``.
        lr_g: of the generator's Adam (DFAD: 1e-3).
        beta1: of the generator's Adam (inferred from DFAD: 0.9).
        lr_s: of the student's SGD (DFAD: 0.1).
        momentum: of SGD (DFAD: 0.9).
        weight_decay: of SGD (DFAD: 5e-4).
        schedule: ``step``: times 0.1 at 20 % and 40 % of a phase (DFAD); ``thirds``: at a third and two thirds, as DFAD
            for larger images; ``cosine``; ``constant``.
        student_mode: the student's mode in the generator's step (DFAD: ``train``).
        clip: largest gradient norm of the generator's step; None leaves it alone. (The adversarial term is unbounded.)
        crop: pad-and-crop shift in pixels of the images that the student learns from (inferred: 0).
        flip: mirror them at random (inferred: off); not for digits and letters.
        reuse: ``alternating`` only: an iteration's first student step learns from the generator step's own images, the
            others from stored ones, with the logits of the time; the teacher is asked again where crop, flip or w_at
            need it. Not in the paper (off).
        bank: how many images are stored for that.
    """

    paper: ClassVar[str] = "Yu et al., Conditional Generative Data-Free Knowledge Distillation, arXiv:2112.15358, 2022"
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "sides"})
    outside: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[frozenset[str]] = frozenset({"classification"})

    mode: Literal["alternating", "two_stage"] = "alternating"
    condition: Condition = "concat"
    w_cls: float = 1.0
    w_bn: float = 1.0
    bn_form: Form = "squared"
    w_act: float = 0.0
    w_adv: float = 1.0
    w_adv_maps: float = 0.0
    ramp: float = 0.1
    pre: float = 0.05
    stage_one: float = 0.5
    kd: Literal["kl", "l1"] = "kl"
    tau: float = 4.0
    w_lab: float = 0.3
    mask: bool = True
    feat: Literal["attention", "hint"] = "attention"
    w_at: float = 1.0
    at_form: AttentionForm = "norm"
    teacher_taps: list[str] | None = None
    student_taps: list[str] | None = None
    student_steps: int = 5
    generator_steps: int = 1
    batch_size: int = 256
    nz: int = 256
    width: int = 64
    size: Literal["small", "large"] = "small"
    head: Head = "standardised"
    lr_g: float = 1e-3
    beta1: float = 0.9
    lr_s: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["step", "thirds", "cosine", "constant"] = "step"
    student_mode: Literal["train", "eval"] = "train"
    clip: float | None = None
    crop: int = 0
    flip: bool = False
    reuse: bool = False
    bank: int = 20_000

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        without = self.needs if self.w_bn > 0 else self.needs - {"bn"}
        return without | {"linear_head"} if self.w_act > 0 else without

    @property
    def alternating(self) -> bool:
        """Whether generator and student are trained in turns; if not, one after the other."""
        return self.mode == "alternating"

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the conditional generator, the student with its adapters if any, and what is paired."""
        self._check()
        teacher, student = engine.given.teacher, engine.given.student
        steps = {"step": step_decay((0.2, 0.4), 0.1), "thirds": step_decay((1 / 3, 2 / 3), 0.1)}
        self.decay = {**steps, "cosine": cosine, "constant": constant}[self.schedule]
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        small = partial(Generator, head=self.head)
        generator = (LargeGenerator if self.size == "large" else small)(teacher, self.nz, self.width, self.condition)
        self.labelled = self.condition != "none"
        mapped = self.w_at > 0 or (self.alternating and self.w_adv_maps > 0)
        names = paired(
            stages(teacher, self.teacher_taps, "teacher") if mapped else [],
            stages(student, self.student_taps, "student") if mapped else [],
        )
        self.penultimate = f"{last_linear(teacher.module)}:input" if self.w_act > 0 else ""
        teacher_taps = [t for t, _ in names] + ([self.penultimate] if self.penultimate else [])
        self.teacher = engine.frozen(teacher, taps=teacher_taps, bn=self.w_bn > 0)
        self.generator, self.opt_g = engine.own(
            "generator", generator, partial(Adam, lr=self.lr_g, betas=(self.beta1, 0.999)), self.decay, self.clip
        )
        self.delivered = student
        self.student, self.opt_s = engine.own("student", student, sgd, self.decay, taps=[s for _, s in names])
        self.learners = [self.opt_s]
        self.pairs, channels = self._maps(engine, names)
        if self.feat == "hint" and self.w_at > 0:
            self.adapters, opt_a = engine.own("adapters", Adapters(channels), sgd, self.decay)
            self.learners.append(opt_a)
        self.stored = engine.bank("images", self.bank, logits=True, wide=generator.wide) if self.reuse else None
        self.gather, self.average, self.adversarial = engine.gather, engine.average, engine.task.adversarial

    # ---------------------------------------------------------------- the algorithm

    def phases(self, steps: int) -> list[Phase]:
        """The generator alone, then both in turns; or the generator alone, then the student alone."""
        if self.alternating:
            iterations = -(-steps // self.student_steps)
            alone = round(iterations * self.pre / (1 - self.pre))
            phases = [Phase("generate", alone, self.warm), Phase("distil", iterations, self.step)]
        else:
            alone = round(steps * self.stage_one / (1 - self.stage_one))
            phases = [Phase("generate", alone, self.first), Phase("distil", steps, self.second)]
        return [phase for phase in phases if phase.iterations]

    def step(self, engine: Engine) -> None:
        """Alternating: look for images of the preset classes on which the student differs, then imitate on others."""
        ramp = min(engine.progress / self.ramp, 1.0) if self.ramp > 0 else 1.0
        self.opt_g.schedule = self.decay
        self.student.train(self.student_mode == "train")
        for _ in range(self.generator_steps):
            z, y = self.draw(engine)
            images, t = engine.minimise(self.loss_g, self.opt_g, inputs=(z, y, z.new_full((), ramp)))
            if self.stored is not None:
                self.stored.add(engine.gather(images), engine.gather(y), engine.gather(t))
        self.student.train()
        if self.stored is not None:
            return self.imitate_stored(engine, images, y, t)
        for _ in range(self.student_steps):
            self.imitate(engine)

    def warm(self, engine: Engine) -> None:
        """Before alternating: the generator learns its classes, at its initial learning rate."""
        self.opt_g.schedule = constant
        for _ in range(self.generator_steps):
            engine.minimise(self.loss_g, self.opt_g, inputs=self.draw(engine))

    def first(self, engine: Engine) -> None:
        """Stage one: the generator, without the student."""
        self.generator.train()
        engine.minimise(self.loss_g, self.opt_g, inputs=self.draw(engine))

    def second(self, engine: Engine) -> None:
        """Stage two: the student, on what the frozen generator makes."""
        self.imitate(engine)

    def imitate(self, engine: Engine) -> None:
        """One student step on a fresh batch."""
        self.learn(engine, *self.images(engine))

    def imitate_stored(self, engine: Engine, images: Tensor, y: Tensor, t: Tensor) -> None:
        """The student steps of an iteration: one on what the generator has just made, the others on the bank."""
        assert self.stored is not None
        self.learn(engine, images, y, t)
        for _ in range(self.student_steps - 1):
            old = self.stored.draw(engine.integers(len(self.stored), self.batch_size), engine.dtype)
            self.learn(engine, old.images, old.labels, old.logits)

    def learn(self, engine: Engine, images: Tensor, y: Tensor, t: Tensor | None = None) -> None:
        """One student step; ``t``: the teacher's logits where they are known."""
        if self.crop or self.flip:
            shift = engine.integers(2 * self.crop + 1, self.batch_size, 2)
            images = crop_flip(images, shift, engine.coins(self.batch_size) if self.flip else None, self.crop)
        known = () if t is None or self.crop or self.flip or self.w_at > 0 else (t,)
        kept = engine.minimise(self.loss_s, *self.learners, inputs=(images, y, *known))
        if kept is not None:
            engine.observe("student", {"kept": kept})

    def loss_g(self, z: Tensor, y: Tensor, ramp: Tensor | None = None) -> tuple[Terms, tuple[Tensor, Tensor]]:
        """Generator: the teacher takes an image for its preset label and its BN layers know it; the student differs.

        ``ramp``: how much of the adversarial terms' weights is in force (0-d, 0 to 1); None leaves them out. Also the
        images and the teacher's logits.
        """
        images = self.generator(z, y)
        t = self.teacher(images, stats=self.w_bn > 0)
        terms: Terms = {}
        if self.labelled and self.w_cls > 0:
            terms["class"] = self.w_cls * F.cross_entropy(t.logits, y)
        if self.w_bn > 0:
            terms["bn"] = self.w_bn * bn_statistics(t.moments, self.bn_form)
        if self.w_act > 0:
            terms["activation"] = self.w_act * activation(t.taps[self.penultimate])
        if ramp is not None and (self.w_adv > 0 or self.w_adv_maps > 0):
            s = self.student(images)
            if self.w_adv > 0:
                terms["adversarial"] = ramp * self.w_adv * self.adversarial(l1(s.logits, t.logits))
            if self.w_adv_maps > 0:
                distance = attention_distance(*self.compared(s, t), self.at_form)
                terms["adversarial_maps"] = ramp * self.w_adv_maps * self.adversarial(distance)
        return terms, (images, t.logits)

    def loss_s(self, images: Tensor, y: Tensor, logits: Tensor | None = None) -> tuple[Terms, Tensor | None]:
        """Student: the teacher's outputs, the preset labels, the teacher's attention. Also the share ``kept``.

        ``logits``: the teacher's, where they are known and its maps not needed.
        """
        if logits is None:
            with torch.no_grad():
                t = self.teacher(images)
            logits = t.logits
        s = self.student(images)
        terms = {"kd": kl(s.logits, logits, self.tau) if self.kd == "kl" else l1(s.logits, logits)}
        kept = None
        if self.labelled:
            agrees = (logits.argmax(1) == y).to(s.logits.dtype)
            kept = agrees.mean()
            if self.w_lab > 0:
                terms["label"] = self.w_lab * self.label_loss(s.logits, y, agrees if self.mask else None)
        if self.w_at > 0:
            ours, theirs = self.compared(s, t)
            if self.feat == "hint":
                terms["hint"] = self.w_at * hint_distance(self.adapters(ours), theirs)
            else:
                terms["attention"] = self.w_at * attention_distance(ours, theirs, self.at_form)
        return terms, kept

    def label_loss(self, s: Tensor, y: Tensor, kept: Tensor | None) -> Tensor:
        """Cross-entropy of logits ``b k`` and labels ``b``, mean over those ``kept`` (``b``, 0 or 1); 0 if none."""
        if kept is None:
            return F.cross_entropy(s, y)
        # The mean number over ranks: their mean loss is then the mean over all kept samples.
        count = self.average(kept.sum()).clamp_min(1e-6)
        return (F.cross_entropy(s, y, reduction="none") * kept).sum() / count

    def compared(self, s: Observed, t: Observed) -> tuple[list[Tensor], list[Tensor]]:
        """The paired feature maps of student and teacher."""
        return [s.taps[name] for _, name in self.pairs], [t.taps[name] for name, _ in self.pairs]

    # ---------------------------------------------------------------- images

    def draw(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """Noise and preset labels."""
        return engine.noise(self.batch_size, self.nz), engine.labels(self.batch_size)

    def images(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """A fresh batch and its preset labels; the generator of stage two stands still, batch norm included."""
        z, y = self.draw(engine)
        self.generator.train(self.alternating)
        return engine.make(self.generator, z, y), y

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor] | None:
        """A batch as the finished generator makes it, in eval mode, and the classes asked for."""
        if not self.labelled:
            return None
        z, y = self.draw(engine)
        self.generator.eval()
        images = engine.make(self.generator, z, y)
        self.generator.train(self.alternating)
        return images, y

    def deliver(self) -> Network:
        """The student."""
        return self.delivered

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of uniformly drawn classes, in batches of training size."""
        return torch.cat([self.images(engine)[0] for _ in range(-(-n // self.batch_size))])[:n]

    # ---------------------------------------------------------------- set-up

    def _check(self) -> None:
        for name, most in (("pre", self.pre), ("stage_one", self.stage_one)):
            if most >= 1:
                raise InputError(f"{name} is {most}: it is a share of the run and must be below 1")
        alone = self.w_bn > 0 or self.w_act > 0 or (self.condition != "none" and self.w_cls > 0)
        if not alone and (self.pre > 0 or not self.alternating):
            raise InputError(
                "the generator has nothing to learn before the student's steps: w_bn, w_act and w_cls, for which "
                "condition must not be none, are all 0; give one of them a weight"
                + (", or set pre to 0" if self.alternating else "")
            )
        if self.reuse and self.generator_steps < 1:
            raise InputError(
                f"generator_steps is {self.generator_steps}, and reuse learns from their images: give 1 or more"
            )
        if self.size == "large" and self.head == "linear":
            raise InputError(
                "head is linear, and the large generator ends in a tanh: leave head out, or take size small"
            )
        if self.reuse and not self.alternating:
            raise InputError(
                "reuse learns from the generator steps' images in turn with them: leave it out of two_stage"
            )

    def _maps(
        self, engine: Engine, names: list[tuple[str, str]]
    ) -> tuple[list[tuple[str, str]], list[tuple[int, int]]]:
        """The pairs (teacher, student) that can be compared, and their channels (student, teacher)."""
        teacher, student = engine.given.teacher, engine.given.student
        if not names:
            return [], []
        grey = teacher.mean.expand(2, -1, *teacher.image_size)
        with torch.no_grad(), engine.eagerly():
            self.student.eval()
            seen = self.teacher(grey).taps, self.student(grey).taps
            self.student.train()
        # One position has nothing to attend to: its normalised map is always 1.
        return comparable(names, (teacher, seen[0]), (student, seen[1]), least=1 if self.feat == "hint" else 2)
