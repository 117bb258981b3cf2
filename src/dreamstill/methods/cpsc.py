"""CPSC-DFKD: conditional pseudo-supervised contrast. Shao, Zhang, Wang, Pattern Recognition 143 (2023) 109781.

The paper's body could not be read: this follows the released code (commit 1c6ade1), and the equations have the numbers
of docs/methods/cpsc.md. Recipe: recipes/cpsc_fashion_lenet5.yaml, 75.0 +- 0.7 % (benchmarks/records/cpu).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import warm_cosine
from dreamstill.errors import InputError
from dreamstill.losses.distillation import floored_cross_entropy, kl, logit_distance
from dreamstill.losses.statistics import bn_statistics
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.class_images import ClassImages
from dreamstill.methods.parts.contrast import Contrast
from dreamstill.methods.parts.decay import decay
from dreamstill.methods.parts.replay import answered, check_reuse
from dreamstill.networks.generators import Condition, Generator, Head
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class CPSC(Method):
    """A generator is told the class of each image, ``x = G(z, y)``; y supervises it, the student and a contrast.

    ``L_G = -KL(x) - alpha L_2(x) + beta L_BN(x) + gamma L_SCL(f_S, f_T, y) + eta CE(T(x), y)``    (5)
    ``L_S =  KL(x) + alpha L_2(x) + gamma_s L_SCL(f_S, f_T, y) + eta_s CE(S(x), y)``    (6)
    """

    paper: ClassVar[str] = (
        "Shao et al., Conditional Pseudo-Supervised Contrast for Data-Free Knowledge Distillation, "
        "Pattern Recognition 143, 2023, arXiv:2510.03375"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "linear_head", "sides"})
    kept_apart: ClassVar[Mapping[str, Any]] = {"variant": "repaired"}

    # the objective
    variant: Literal["repaired", "released"] = "repaired"
    """``released`` keeps what we take for errors of the released code: methods/released/cpsc.py (ours: repaired)."""
    alpha: Weight = 1.0
    """Weight of the logit term (released: 1; for CIFAR-100 5)."""
    beta: Weight = 1.0
    """Weight of the batch-norm term (released)."""
    gamma: Weight = 0.7
    """Weight of the contrast in the generator's loss (released); 0 leaves the idea out."""
    eta: Weight = 0.7
    """Weight of the pseudo-labels' cross-entropy in the generator's loss (released); 0 leaves the idea out."""
    eta_s: Weight | None = None
    """The same in the student's loss; without it eta (released)."""
    label_floor: Weight = 0.0
    """Cross-entropy below which an image has no pull on the generator (ours: off; real ones of Fashion-MNIST: 0.23)."""
    gamma_s: Weight = 0.0
    """Weight of the contrast in the student's loss (released: 0; a page about the paper can be read otherwise)."""
    condition: Condition = "ccbn"
    """How G is told the class: ``ccbn``, in its batch norms (released), ``concat``, ``multiply``, or not: ``none``."""
    tau: Positive = 0.07
    """Temperature of the contrast (released)."""
    views: Literal["both", "teacher"] = "both"
    """The contrast's views of an image: the features of both networks (released) or the teacher's alone (ours)."""
    ikd: Literal["mse", "log_mse"] = "mse"
    """Form of the logit term (released: ``mse`` for CIFAR-100 and Tiny-ImageNet, ``log_mse`` for CIFAR-10)."""
    bn_layers: Literal["sum", "mean"] = "sum"
    """The batch-norm term over the teacher's layers (released: their sum)."""
    adversarial: bool = True
    """Whether the generator's loss has its two negative terms (released)."""
    detach_teacher: bool = False
    """Hold the teacher's logits fixed in the generator's KL too, as the released code does in the logit term (ours)."""
    student_mode: Literal["train", "eval"] = "train"
    """The student's mode in the generator's steps (released: ``train``)."""
    # networks and optimisation
    generator_steps: Whole = 6
    """Generator steps at the start of an iteration, each on its own noise and classes (released)."""
    student_steps: Count = 5
    """Student steps that follow (released)."""
    batch_size: Annotated[Count, Batch(), Small(16)] = 512
    """Images a step (released)."""
    nz: Annotated[Count, Small(8)] = 256
    """Length of the noise (released)."""
    width: Annotated[Count, Small(4)] = 64
    """The generator's channels before its last convolution, ``ngf`` (released)."""
    head: Head = "standardised"
    """How the generator ends: a tanh and a batch norm (released), ``tanh``, or ``linear``, without the tanh (ours)."""
    lr_g: Weight = 1e-3
    """The generator's learning rate: Adam with betas 0.5 and 0.999 (released)."""
    schedule_g: Literal["constant", "step", "cosine"] = "constant"
    """Its course (released, in effect: constant; meant: ``step``, times 0.1 at epochs 50 and 150 of 600)."""
    clip: Positive | None = None
    """Largest gradient norm of the generator's step; without it any (ours: the logit term is unbounded below)."""
    lr_p: Weight = 1e-3
    """Adam of the projection of the student's features, which learns from the contrast alone (inferred)."""
    lr_s: Weight = 0.1
    """The student's SGD, from 0 up over the warm-up, then along a cosine (released)."""
    warmup: Below1 = 10 / 600
    """Share of the run that warms up (released: 10 of 600 epochs)."""
    momentum: Below1 = 0.9
    """Of the student's SGD (released)."""
    weight_decay: Weight = 5e-4
    """Of the student's SGD (released)."""
    # ours, not in the paper
    reuse: bool = False
    """The student learns from the last generator step's images, then from stored ones of all, with their logits."""
    bank: Annotated[Count, Small(64)] = 20_000
    """How many images are stored for that."""

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the conditional generator, the student and, between unequal features, a projection."""
        teacher, self.network = engine.given.teacher, engine.given.student
        self.l_2 = partial(logit_distance, form=self.ikd, average=engine.average, guard=1e-6)
        self.contrast = Contrast(engine, self.views if self.gamma or self.gamma_s else None, self.tau)
        self.teacher = engine.frozen(teacher, self.contrast.taps_t, bn=self.beta > 0)
        generator = Generator(teacher, self.nz, self.width, self.condition, self.head)
        adam = partial(Adam, lr=self.lr_g, betas=(0.5, 0.999))
        course = decay(self.schedule_g, (50 / 600, 150 / 600))
        self.generator, self.opt_g = engine.own("generator", generator, adam, course, self.clip)
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        course, taps = warm_cosine(self.warmup), self.contrast.taps_s
        self.student, self.opt_s = engine.own("student", self.network, sgd, course, taps=taps)
        self.contrast.own_projection(engine, self.lr_p)
        self.stored = engine.bank("images", self.bank, logits=True, wide=generator.wide) if self.reuse else None
        self.source = ClassImages(self.generator, self.batch_size, self.nz, self.stored)

    def phases(self, steps: int) -> list[Phase]:
        """One phase; an iteration is the generator's steps and then ``student_steps`` of the student."""
        return [Phase("distil", -(-steps // self.student_steps), self.step)]

    def step(self, engine: Engine) -> None:
        """The algorithm: look for images of known classes where the two differ, then imitate on new ones."""
        # 1. Generator: draw noise z and pseudo-labels y, and descend L_G, eq. (5).
        self.student.train(self.student_mode == "train")
        for _ in range(self.generator_steps):
            z, y = self.source.draw(engine)
            images, t = engine.minimise(self.loss_g, self.opt_g, *self.contrast.learning(self.gamma), inputs=(z, y))
            self.source.remember(engine, images, t, y)
        # 2. Student: draw anew (with reuse take the images there are) and descend L_S, eq. (6).
        self.student.train()
        for batch in self.source.lessons(engine, self.student_steps):
            engine.minimise(self.loss_s, self.opt_s, *self.contrast.learning(self.gamma_s), inputs=batch)

    def loss_g(self, z: Tensor, y: Tensor) -> tuple[Terms, tuple[Tensor, Tensor]]:
        """Eq. (5): images of class y, as the teacher's batch norms know them, on which the two disagree."""
        images = self.generator(z, y)
        t, s = self.teacher(images, stats=self.beta > 0), self.student(images)
        fixed, terms = t.logits.detach(), {}
        if self.adversarial:
            terms["kl"] = -kl(s.logits, fixed if self.detach_teacher else t.logits)  # (1)
        if self.adversarial and self.alpha > 0:
            terms["logits"] = -self.alpha * self.l_2(s.logits, fixed)  # (2)
        if self.beta > 0:
            layers = len(t.moments) if self.bn_layers == "sum" else 1
            terms["bn"] = self.beta * layers * bn_statistics(t.moments)  # (3)
        if self.gamma > 0:
            terms["contrast"] = self.gamma * self.contrast(s, t, y)  # (4)
        if self.eta > 0:
            terms["label"] = self.eta * self.cross_entropy(t.logits, y, self.label_floor)
        return terms, (images, t.logits)

    def loss_s(self, images: Tensor, y: Tensor, logits: Tensor | None = None) -> Terms:
        """Eq. (6): agree with the teacher, whose logits may be known, and with the class that was asked for."""
        s, t = self.student(images), answered(self.teacher, images, logits)
        terms = {"kl": kl(s.logits, t.logits)}  # (1)
        if self.alpha > 0:
            terms["logits"] = self.alpha * self.l_2(s.logits, t.logits, batch=self.batch_size)  # (2)
        if self.gamma_s > 0:
            terms["contrast"] = self.gamma_s * self.contrast(s, t, y)  # (4)
        if (eta := self.eta if self.eta_s is None else self.eta_s) > 0:
            terms["label"] = eta * self.cross_entropy(s.logits, y)
        return terms

    def cross_entropy(self, logits: Tensor, y: Tensor, floor: float = 0.0) -> Tensor:
        """Of logits ``b k`` with the pseudo-labels ``b``; an image's own is at least the floor."""
        return floored_cross_entropy(logits, y, floor)

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor] | None:
        """A batch as the finished generator makes it, in eval mode, and the classes asked for."""
        return None if self.condition == "none" else self.source.finished(engine)

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of all classes."""
        return self.source.many(engine, n)

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        uses = {"bn": self.beta > 0, "linear_head": self.gamma > 0 or self.gamma_s > 0}
        return frozenset(need for need in self.needs if uses.get(need, True))

    def check(self, task: str) -> None:
        """Refuse settings that contradict each other."""
        if self.condition == "none" and (self.eta or self.eta_s or self.gamma or self.gamma_s):
            raise InputError("condition is none, so no image has a class: set eta, eta_s, gamma and gamma_s to 0")
        if self.gamma_s > 0 and self.views == "teacher":
            raise InputError("views is teacher, so the contrast cannot teach the student: set gamma_s to 0")
        if not (self.adversarial or self.beta or self.gamma or self.eta):
            raise InputError("adversarial, beta, gamma and eta are off, so the generator has no loss: set one of them")
        if self.reuse and self.gamma_s > 0:
            raise InputError("reuse stores no features, which the student's contrast needs: set gamma_s to 0")
        if self.reuse:
            check_reuse(self.generator_steps, task)
