"""CGDD: conditional generative data-free distillation. Yu et al., arXiv:2112.15358 (2021, v4 2022).

Recipe: recipes/cgdd_fashion_lenet5.yaml, 69.5 +- 4.4 %. Only abstracts (v1, v4) were read: the rest is inferred.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.engine import Engine, Terms
from dreamstill.losses.attention import AttentionForm
from dreamstill.losses.distillation import floored_cross_entropy, kl, l1, masked_cross_entropy
from dreamstill.losses.prior import activation
from dreamstill.losses.statistics import Form, bn_statistics
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.class_images import ClassImages, Size, check_head, check_weights, generator_of
from dreamstill.methods.parts.decay import Decay, decay, ramped
from dreamstill.methods.parts.feature_pairs import ComparedMaps
from dreamstill.methods.parts.replay import answered, check_reuse
from dreamstill.networks.generators import Condition, Head
from dreamstill.networks.network import Network
from dreamstill.networks.probes import last_linear
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class CGDD(Method):
    """``x = G(z, y)``, ``y`` uniform. ``L_AT``: sum over stages of ``||q_S - q_T||_2``, q the normalised attention map.

    ``L_G = w_cls CE(T(x), y) + w_bn L_BN(x) - w_adv mean |T(x) - S(x)|  (+ w_act L_act - w_adv_maps L_AT)``
    ``L_S = KL_tau(T(x) || S(x)) + w_lab CE(S(x), y) [only x that T takes for y] + w_at L_AT(x)``
    """

    paper: ClassVar[str] = "Yu et al., Conditional Generative Data-Free Knowledge Distillation, arXiv:2112.15358, 2022"
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "sides"})
    kept_apart: ClassVar[dict[str, Any]] = {"mode": "alternating"}

    mode: Literal["alternating", "two_stage"] = "alternating"
    """Generator and student in turns (abstract, v4), or the student after the generator (abstract, v1)."""
    condition: Condition = "concat"
    """How the label enters G: ``concat``, a one-hot beside the noise, or else (inferred); ``none``: not at all."""
    pre: Below1 = 0.05
    """Share of all iterations that first train the generator alone, in mode ``alternating`` (inferred)."""
    stage_one: Below1 = 0.5
    """Share of stage one in all optimiser steps, in mode ``two_stage`` (inferred)."""
    generator_steps: Whole = 1
    """Generator steps an iteration (DFAD)."""
    student_steps: Count = 5
    """Student steps an iteration, each on its own batch (DFAD)."""
    student_mode: Literal["train", "eval"] = "train"
    """The student's mode in the generator's step (DFAD)."""
    # the generator's objective
    w_cls: Weight = 1.0
    """Weight of the cross-entropy with the preset label (abstract; its form and weight: inferred)."""
    label_floor: Weight = 0.0
    """Cross-entropy below which an image has no pull on the generator (ours: off; real ones of Fashion-MNIST: 0.23)."""
    w_bn: Weight = 1.0
    """Weight of the batch-norm term, a mean over the layers (inferred)."""
    bn_form: Form = "squared"
    """Distance of the batch-norm term: ``squared`` norms, ``norm`` or ``gaussian_kl`` (inferred)."""
    w_act: Weight = 0.0
    """Weight of DAFL's activation term (inferred from "several losses": off)."""
    w_adv: Weight = 1.0
    """Final weight of the adversarial term (abstract, v4; L1 on logits: DFAD)."""
    w_adv_maps: Weight = 0.0
    """Final weight of an adversarial term on attention maps (inferred from "several losses": off)."""
    ramp: Weight = 0.1
    """Share of the adversarial phase over which both of these weights grow linearly from 0 (inferred)."""
    # the student's objective
    kd: Literal["kl", "l1"] = "kl"
    """The distillation loss (abstract; its form: inferred); ``l1`` on logits: DFAD."""
    tau: Positive = 4.0
    """Temperature of ``kl`` (inferred)."""
    w_lab: Weight = 0.3
    """Weight of the cross-entropy with the preset label (abstract, v1; the weight: inferred)."""
    mask: bool = True
    """Leave out of that term the images that the teacher takes for another class (inferred); off: v1 literally."""
    feat: Literal["attention", "hint"] = "attention"
    """Compare attention maps (abstract, v1), or FitNets' hints through trained 1x1 convolutions, an ablation."""
    w_at: Weight = 1.0
    """Weight of that comparison (abstract, v1; the weight: inferred, for ``norm``)."""
    at_form: AttentionForm = "norm"
    """Distance of the maps (Zagoruyko and Komodakis); ``squared`` wants a weight of 100 to 1000 (inferred)."""
    teacher_taps: list[str] | None = None
    """Names of the teacher's layers whose maps are compared; without them its built-in stages (inferred)."""
    student_taps: list[str] | None = None
    """The student's, paired with the teacher's from the last backwards (inferred)."""
    nz: Annotated[Count, Small(8)] = 256
    """Length of the noise (DFAD)."""
    width: Annotated[Count, Small(4)] = 64
    """Base width of the generator, ngf (DFAD)."""
    size: Size = "small"
    """``small``: DFAD's generator for about 32 pixels; ``large``: its DCGAN type for 64 to 224 (inferred)."""
    head: Head = "standardised"
    """End of the small one: tanh, batch norm (inferred, DFAD); ``tanh``: for mean and std 0.5; ``linear`` (ours)."""
    batch_size: Annotated[Count, Batch(), Small(16)] = 256
    """Images a step (DFAD)."""
    lr_g: Weight = 1e-3
    """Learning rate of the generator's Adam (DFAD)."""
    beta1: Below1 = 0.9
    """Its first beta (DFAD)."""
    clip: Positive | None = None
    """Largest gradient norm of the generator's step; without it any; the adversarial term is unbounded (inferred)."""
    lr_s: Weight = 0.1
    """Learning rate of the student's SGD (DFAD)."""
    momentum: Below1 = 0.9
    """Momentum of the student's SGD (DFAD)."""
    weight_decay: Weight = 5e-4
    """Weight decay of the student's SGD (DFAD)."""
    schedule: Decay = "step"
    """``step``: times 0.1 at 20 and 40 % of a phase (DFAD); ``thirds``: at 1/3 and 2/3 (DFAD on larger images)."""
    crop: Whole = 0
    """The student's images are padded by so many pixels and cropped back (ours)."""
    flip: bool = False
    """They are mirrored at random; not for digits and letters (ours)."""
    reuse: bool = False
    """The student learns from the generator steps' own images, new and stored, with their logits (ours)."""
    bank: Annotated[Count, Small(64)] = 20_000
    """How many images are stored for that (ours)."""

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the conditional generator, the student, and the feature maps that are compared."""
        teacher, self.network, self.average = engine.given.teacher, engine.given.student, engine.average
        self.labelled, mapped = self.condition != "none", self.w_at > 0 or self.w_adv_maps > 0
        self.maps = ComparedMaps(engine, mapped, self.teacher_taps, self.student_taps, self.feat, self.at_form)
        self.features = [f"{last_linear(teacher.module)}:input"] if self.w_act > 0 else []
        self.teacher = engine.frozen(teacher, self.maps.taps_t + self.features, bn=self.w_bn > 0)
        generator = generator_of(self.size, self.head)(teacher, self.nz, self.width, self.condition)
        adam, course = partial(Adam, lr=self.lr_g, betas=(self.beta1, 0.999)), decay(self.schedule)
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.generator, self.opt_g = engine.own("generator", generator, adam, course, self.clip)
        self.student, self.opt_s = engine.own("student", self.network, sgd, course, taps=self.maps.taps_s)
        self.learners = [self.opt_s, *self.maps.settle(engine, self.teacher, self.student, self.w_at, sgd, course)]
        self.stored = engine.bank("images", self.bank, logits=True, wide=generator.wide) if self.reuse else None
        self.images = ClassImages(self.generator, self.batch_size, self.nz, self.stored)

    def phases(self, steps: int) -> list[Phase]:
        """The generator alone, then both in turns: an iteration is its steps and then ``student_steps``."""
        turns = -(-steps // self.student_steps)
        alone, still = round(turns * self.pre / (1 - self.pre)), {"generator": decay("constant")}
        phases = Phase("generate", alone, self.generator_alone, still), Phase("distil", turns, self.step)
        return [phase for phase in phases if phase.iterations]

    def generator_alone(self, engine: Engine) -> None:
        """The generator learns its classes before the student takes part."""
        for _ in range(self.generator_steps):
            engine.minimise(self.loss_g, self.opt_g, inputs=self.images.draw(engine))

    def step(self, engine: Engine) -> None:
        """In turns: an adversarial framework in which the student explores more of the data space (v4)."""
        # 1. Generator: images of preset classes on which student and teacher differ.
        self.student.train(self.student_mode == "train")
        for _ in range(self.generator_steps):
            z, y = self.images.draw(engine)
            x, t = engine.minimise(self.loss_g, self.opt_g, inputs=(z, y, ramped(engine, self.ramp)))
            self.images.remember(engine, x, t, y)
        # 2. Student: imitate on fresh images, or with reuse on those there are.
        self.student.train()
        for batch in self.images.lessons(engine, self.student_steps, self.crop, self.flip, logits=self.w_at == 0):
            engine.observe("student", engine.minimise(self.loss_s, *self.learners, inputs=batch))

    def loss_g(self, z: Tensor, y: Tensor, ramp: Tensor | None = None) -> tuple[Terms, tuple[Tensor, Tensor]]:
        """``L_G``, the images and the teacher's logits. ``ramp``: 0-d, 0 to 1; None: no adversarial terms."""
        x = self.generator(z, y)
        t, terms = self.teacher(x, stats=self.w_bn > 0), {}
        if self.labelled and self.w_cls > 0:  # preset labels are the ground truth (abstracts of v1 and v4)
            terms["class"] = self.w_cls * floored_cross_entropy(t.logits, y, self.label_floor)
        if self.w_bn > 0:  # terms without labels keep images plausible ("semi-supervised", v4; which: inferred)
            terms["bn"] = self.w_bn * bn_statistics(t.moments, self.bn_form)
        if self.w_act > 0:
            terms["activation"] = self.w_act * activation(t.taps[self.features[0]])  # itself below 0
        if ramp is not None and (self.w_adv > 0 or self.w_adv_maps > 0):  # several losses (v4; which: inferred)
            s = self.student(x)
            if self.w_adv > 0:
                terms["adversarial"] = -ramp * self.w_adv * l1(s.logits, t.logits)
            if self.w_adv_maps > 0:
                terms["adversarial_maps"] = -ramp * self.w_adv_maps * self.maps.attention(s, t)
        return terms, (x, t.logits)

    def loss_s(self, x: Tensor, y: Tensor, logits: Tensor | None = None) -> tuple[Terms, Terms]:
        """``L_S``, and the share ``kept`` of images that the teacher takes for their preset class."""
        s, t = self.student(x), answered(self.teacher, x, logits)
        terms = {"kd": kl(s.logits, t.logits, self.tau) if self.kd == "kl" else l1(s.logits, t.logits)}  # (v1)
        agrees = (t.logits.argmax(1) == y).to(s.logits.dtype)
        if self.labelled and self.w_lab > 0:  # the preset label is the ground truth (v1) where the teacher agrees
            terms["label"] = self.w_lab * masked_cross_entropy(s.logits, y, agrees if self.mask else None, self.average)
        if self.w_at > 0:  # the student mimics the attention maps of the teacher (v1)
            terms[self.feat] = self.w_at * self.maps(s, t)
        return terms, {"kept": agrees.mean()} if self.labelled else {}

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor] | None:
        """A batch as the finished generator makes it, in eval mode, and the classes asked for."""
        return self.images.finished(engine) if self.labelled else None

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of all classes."""
        return self.images.many(engine, n)

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        return (self.needs if self.w_bn > 0 else self.needs - {"bn"}) | ({"linear_head"} if self.w_act > 0 else set())

    def check(self, task: str) -> None:
        """Refuse settings that contradict each other."""
        if self.pre > 0 or self.mode == "two_stage":
            given = {"w_bn": self.w_bn, "w_act": self.w_act, "w_cls": self.w_cls if self.condition != "none" else 0.0}
            check_weights(given, "the generator has nothing to learn before the student's steps")
        check_head(self.size, self.head)
        if self.reuse:
            check_reuse(self.generator_steps)
