"""CGDD: conditional generative data-free distillation. Yu et al., arXiv:2112.15358 (2021, v4 2022).

Page: ``docs/methods/cgdd.md``. Recipe: ``recipes/cgdd_fashion_lenet5.yaml``, 69.5 +- 4.4 % (``benchmarks/cpu.md``).
Only the abstracts of v1 and v4 could be read and no code was released: there are no equation numbers to cite. What they
do not say is inferred, on DFAD's released schedule (Fang et al., arXiv:1912.11006).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.data.bank import Stored
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import constant
from dreamstill.errors import InputError
from dreamstill.losses.attention import AttentionForm, attention_distance, hint_distance
from dreamstill.losses.distillation import kl, l1, masked_cross_entropy
from dreamstill.losses.prior import activation
from dreamstill.losses.statistics import Form, bn_statistics
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.class_images import ClassImages
from dreamstill.methods.parts.decay import Decay, decay
from dreamstill.methods.parts.feature_pairs import Adapters, comparable, maps, paired
from dreamstill.methods.parts.replay import check_reuse, reused, shifted
from dreamstill.networks.generators import Condition, Generator, Head, LargeGenerator
from dreamstill.networks.network import Network
from dreamstill.networks.probes import last_linear
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class CGDD(Method):
    """``x = G(z, y)``, ``y`` a preset label drawn uniformly.

    ``L_G = w_cls CE(T(x), y) + w_bn L_BN(x) - w_adv mean |T(x) - S(x)|  (+ w_act L_act - w_adv_maps L_AT)``
    ``L_S = KL_tau(T(x) || S(x)) + w_lab CE(S(x), y) [only x that T takes for y] + w_at L_AT(x)``
    ``L_AT = sum over stages of ||q_S - q_T||_2``, ``q`` the unit-length map of mean squared activation.
    """

    paper: ClassVar[str] = "Yu et al., Conditional Generative Data-Free Knowledge Distillation, arXiv:2112.15358, 2022"
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "sides"})

    # the algorithm
    mode: Literal["alternating", "two_stage"] = "alternating"
    """Generator and student in turns (v4), or one after the other, the generator then frozen in eval mode (v1)."""
    condition: Condition = "concat"
    """How the label enters the generator: ``concat`` (inferred), ``multiply``, ``ccbn``; ``none``: no labels at all."""
    pre: Below1 = 0.05
    """Share of all iterations that train the generator alone before; ``alternating`` only (inferred)."""
    stage_one: Below1 = 0.5
    """Share of stage one in all optimiser steps; ``two_stage`` only (inferred)."""
    generator_steps: Whole = 1
    """Generator steps an iteration (inferred from DFAD)."""
    student_steps: Count = 5
    """Student steps an iteration, each on its own batch (inferred from DFAD)."""
    student_mode: Literal["train", "eval"] = "train"
    """The student's mode in the generator's step (DFAD)."""

    # the generator's objective
    w_cls: Weight = 1.0
    """Weight of the cross-entropy with the preset label (the term: paper; the weight: inferred)."""
    w_bn: Weight = 1.0
    """Weight of the batch-norm term, a mean over layers (inferred)."""
    bn_form: Form = "squared"
    """Form of the batch-norm term: ``squared`` norms (inferred), ``norm`` or ``gaussian_kl``."""
    w_act: Weight = 0.0
    """Weight of DAFL's activation term (inferred: off)."""
    w_adv: Weight = 1.0
    """Final weight of the adversarial term (the framework: paper v4; L1 on logits and weight: inferred from DFAD)."""
    w_adv_maps: Weight = 0.0
    """Final weight of an adversarial term on attention maps (inferred: off)."""
    ramp: Weight = 0.1
    """Share of the adversarial phase over which both those weights grow linearly from 0 (inferred)."""

    # the student's objective
    kd: Literal["kl", "l1"] = "kl"
    """The distillation loss: ``kl`` (the term: paper; the form: inferred) or ``l1`` on logits (DFAD)."""
    tau: Positive = 4.0
    """Temperature of ``kl`` (inferred)."""
    w_lab: Weight = 0.3
    """Weight of the cross-entropy with the preset label (the term: paper v1; the weight: inferred)."""
    mask: bool = True
    """Leave images out of that term that the teacher does not take for their class (inferred); off: v1 literally."""
    feat: Literal["attention", "hint"] = "attention"
    """What is compared between stages: ``attention`` (paper v1), or ``hint``: the maps themselves, the student's
    through a trained 1x1 convolution and batch norm (an ablation)."""
    w_at: Weight = 1.0
    """Weight of that comparison (the term: paper v1; the weight: inferred, for ``norm``; see the page)."""
    at_form: AttentionForm = "norm"
    """``norm``, or ``squared``, whose weight ought to be 100 to 1000 (inferred)."""
    teacher_taps: list[str] | None = None
    """Names of the teacher's layers whose maps are compared; None: its built-in stages (inferred)."""
    student_taps: list[str] | None = None
    """The student's; they are paired with the teacher's from the last backwards (inferred)."""

    # networks and optimisation
    nz: Annotated[Count, Small(8)] = 256
    """Noise length (inferred from DFAD)."""
    width: Annotated[Count, Small(4)] = 64
    """The generator's ``ngf`` (inferred from DFAD)."""
    size: Literal["small", "large"] = "small"
    """The generator: ``small``, DFAD's for about 32 pixels, or ``large``, DCGAN type for 64 to 224 (inferred)."""
    head: Head = "standardised"
    """How the small generator ends: ``standardised`` (inferred from DFAD), ``linear`` or ``tanh``."""
    batch_size: Annotated[Count, Batch(), Small(16)] = 256
    """Images a step (inferred from DFAD)."""
    lr_g: Weight = 1e-3
    """Learning rate of the generator's Adam (DFAD)."""
    beta1: Below1 = 0.9
    """First beta of the generator's Adam (inferred from DFAD)."""
    clip: Positive | None = None
    """Largest gradient norm of the generator's step, for the adversarial term is unbounded; None: any (inferred)."""
    lr_s: Weight = 0.1
    """Learning rate of the student's SGD (DFAD)."""
    momentum: Below1 = 0.9
    """Momentum of SGD (DFAD)."""
    weight_decay: Weight = 5e-4
    """Weight decay of SGD (DFAD)."""
    schedule: Decay = "step"
    """``step``: times 0.1 at 20 % and 40 % of a phase; ``thirds``, for larger images (both DFAD); or others (ours)."""

    # ours, not in the paper
    crop: Whole = 0
    """Pad-and-crop shift in pixels of the images that the student learns from."""
    flip: bool = False
    """Mirror them at random; not for digits and letters."""
    reuse: bool = False
    """An iteration's first student step learns from the generator step's own images, the others from stored ones, with
    the logits of the time (the teacher is asked again where crop, flip or w_at need it); ``alternating`` only."""
    bank: Annotated[Count, Small(64)] = 20_000
    """How many images are stored for ``reuse``."""

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the conditional generator, the student with its adapters if any, and what is paired."""
        self.alternating, self.labelled = self.mode == "alternating", self.condition != "none"
        teacher, self.delivered = engine.given.teacher, engine.given.student
        mapped = self.w_at > 0 or (self.alternating and self.w_adv_maps > 0)
        pairs = paired(teacher, self.delivered, self.teacher_taps, self.student_taps) if mapped else []
        self.features = [f"{last_linear(teacher.module)}:input"] if self.w_act > 0 else []
        taps = [t for t, _ in pairs] + self.features
        self.teacher = engine.frozen(teacher, taps=taps, bn=self.w_bn > 0)
        network = LargeGenerator if self.size == "large" else partial(Generator, head=self.head)
        generator = network(teacher, self.nz, self.width, self.condition)
        adam = partial(Adam, lr=self.lr_g, betas=(self.beta1, 0.999))
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        falling = decay(self.schedule)
        self.generator, self.opt_g = engine.own("generator", generator, adam, falling, self.clip)
        self.student, self.opt_s = engine.own("student", self.delivered, sgd, falling, taps=[s for _, s in pairs])
        self.images = ClassImages(self.generator, self.batch_size, self.nz)
        # One position has nothing to attend to: its normalised map is always 1.
        least = 1 if self.feat == "hint" else 2
        self.pairs, channels = comparable(engine, pairs, self.teacher, self.student, least)
        self.learners = [self.opt_s]
        if self.feat == "hint" and self.w_at > 0:
            self.adapters, opt_a = engine.own("adapters", Adapters(channels), sgd, falling)
            self.learners.append(opt_a)
        self.stored = engine.bank("images", self.bank, logits=True, wide=generator.wide) if self.reuse else None
        self.average = engine.average

    def phases(self, steps: int) -> list[Phase]:
        """The generator alone, then both in turns (v4); or the generator alone, then the student alone (v1)."""
        if self.mode == "two_stage":
            alone = round(steps * self.stage_one / (1 - self.stage_one))
            phases = [Phase("generate", alone, self.generator_alone), Phase("distil", steps, self.student_alone)]
        else:
            turns = -(-steps // self.student_steps)
            alone = round(turns * self.pre / (1 - self.pre))
            before = Phase("generate", alone, self.generator_alone, {"generator": constant})
            phases = [before, Phase("distil", turns, self.step)]
        return [phase for phase in phases if phase.iterations]

    def step(self, engine: Engine) -> None:
        """In turns: an adversarial framework in which the student explores more of the data space (v4)."""
        # 1. The generator: images of preset classes on which student and teacher differ.
        ramp = min(engine.progress / self.ramp, 1.0) if self.ramp > 0 else 1.0
        self.student.train(self.student_mode == "train")
        for _ in range(self.generator_steps):
            z, y = self.images.draw(engine)
            images, t = engine.minimise(self.loss_g, self.opt_g, inputs=(z, y, z.new_full((), ramp)))
            if self.stored is not None:
                self.stored.add(engine.gather(images), engine.gather(y), engine.gather(t))
        # 2. The student: on a fresh batch a step, or with reuse on those images and on stored ones.
        self.student.train()
        if self.stored is None:
            for _ in range(self.student_steps):
                self.learn(engine, *self.images.make(engine))
        else:
            for batch in reused(engine, self.stored, Stored(images, y, t), self.student_steps, self.batch_size):
                self.learn(engine, *batch)

    def generator_alone(self, engine: Engine) -> None:
        """The generator learns its classes before the student takes part."""
        self.generator.train()
        for _ in range(self.generator_steps if self.alternating else 1):
            engine.minimise(self.loss_g, self.opt_g, inputs=self.images.draw(engine))

    def student_alone(self, engine: Engine) -> None:
        """The student learns from what the trained generator, now frozen, batch norm included, makes (v1)."""
        self.generator.eval()
        self.learn(engine, *self.images.make(engine))

    def learn(self, engine: Engine, images: Tensor, y: Tensor, t: Tensor | None = None) -> None:
        """One student step; ``t``: the teacher's logits of these images, where they are known."""
        if self.crop or self.flip:
            images, t = shifted(engine, images, self.batch_size, self.crop, self.flip), None
        known = () if t is None or self.w_at > 0 else (t,)  # the teacher's maps are nowhere stored
        kept = engine.minimise(self.loss_s, *self.learners, inputs=(images, y, *known))
        if kept is not None:  # the share of images that the teacher takes for their preset class
            engine.observe("student", {"kept": kept})

    def loss_g(self, z: Tensor, y: Tensor, ramp: Tensor | None = None) -> tuple[Terms, tuple[Tensor, Tensor]]:
        """``L_G``; also the images and the teacher's logits. ``ramp``: 0-d, 0 to 1; None: no adversarial terms."""
        images = self.generator(z, y)
        t = self.teacher(images, stats=self.w_bn > 0)
        terms: Terms = {}
        # 1. Preset labels are the ground truth (abstracts of v1 and v4).
        if self.labelled and self.w_cls > 0:
            terms["class"] = self.w_cls * F.cross_entropy(t.logits, y)
        # 2. Terms without labels keep images plausible ("semi-supervised", v4; which terms: inferred).
        if self.w_bn > 0:
            terms["bn"] = self.w_bn * bn_statistics(t.moments, self.bn_form)
        if self.w_act > 0:
            terms["activation"] = self.w_act * activation(t.taps[self.features[0]])  # itself below 0
        # 3. The adversarial framework of several losses (v4; which: inferred): the discrepancies grow.
        if ramp is not None and (self.w_adv > 0 or self.w_adv_maps > 0):
            s = self.student(images)
            if self.w_adv > 0:
                terms["adversarial"] = -ramp * self.w_adv * l1(s.logits, t.logits)
            if self.w_adv_maps > 0:
                distance = attention_distance(*maps(self.pairs, s, t), self.at_form)
                terms["adversarial_maps"] = -ramp * self.w_adv_maps * distance
        return terms, (images, t.logits)

    def loss_s(self, images: Tensor, y: Tensor, logits: Tensor | None = None) -> tuple[Terms, Tensor | None]:
        """``L_S``; also the share ``kept``. ``logits``: the teacher's, where they are known and suffice."""
        if logits is None:
            with torch.no_grad():
                t = self.teacher(images)
            logits = t.logits
        s = self.student(images)
        # 1. The distillation loss (v1).
        terms = {"kd": kl(s.logits, logits, self.tau) if self.kd == "kl" else l1(s.logits, logits)}
        # 2. The preset label is the ground truth (v1), where the teacher agrees (the mask: inferred).
        agrees = (logits.argmax(1) == y).to(s.logits.dtype)
        if self.labelled and self.w_lab > 0:
            kept = agrees if self.mask else None
            terms["label"] = self.w_lab * masked_cross_entropy(s.logits, y, kept, self.average)
        # 3. The student mimics the attention maps of the teacher (v1).
        if self.w_at > 0:
            ours, theirs = maps(self.pairs, s, t)
            if self.feat == "hint":
                terms["hint"] = self.w_at * hint_distance(self.adapters(ours), theirs)
            else:
                terms["attention"] = self.w_at * attention_distance(ours, theirs, self.at_form)
        return terms, agrees.mean() if self.labelled else None

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor] | None:
        """A batch as the finished generator makes it, in eval mode, and the classes asked for."""
        return self.images.finished(engine) if self.labelled else None

    def deliver(self) -> Network:
        """The student."""
        return self.delivered

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of uniformly drawn classes, in batches of training size."""
        self.generator.train(self.alternating)
        return self.images.many(engine, n)

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        without = self.needs if self.w_bn > 0 else self.needs - {"bn"}
        return without | {"linear_head"} if self.w_act > 0 else without

    def check(self, task: str) -> None:
        """Refuse a generator without an objective of its own, and settings that exclude each other."""
        alone = self.w_bn > 0 or self.w_act > 0 or (self.condition != "none" and self.w_cls > 0)
        if not alone and (self.pre > 0 or self.mode == "two_stage"):
            raise InputError(
                "the generator has nothing to learn before the student's steps, because w_bn, w_act and w_cls (which "
                "counts only with a condition) are all 0. Give one of them a weight"
                + (", or set pre to 0" if self.mode == "alternating" else "")
            )
        if self.size == "large" and self.head == "linear":
            raise InputError(
                "head is linear, but the large generator ends in a tanh: leave head out, or take size small"
            )
        if self.reuse:
            check_reuse(self.generator_steps)
        if self.reuse and self.mode == "two_stage":
            raise InputError("reuse needs generator and student in turns: leave it out, or take mode alternating")
