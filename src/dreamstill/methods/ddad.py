"""DDAD: dual discriminator adversarial distillation. Zhao et al., arXiv:2104.05382 (2021). Page: docs/methods/ddad.md.

Recipe: recipes/ddad_fashion_lenet5.yaml, 76.9 +- 1.9 % on Fashion-MNIST (benchmarks/records/cpu). Only the abstract was
read: teacher and student together are one discriminator, the teacher's batch-norm statistics the other. The rest is
DFAD's (Fang et al., arXiv:1912.11006), whose schedule DDAD's experiments extend, and DeepInversion's batch-norm term.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.engine import Engine, Terms
from dreamstill.errors import InputError
from dreamstill.losses.prior import balance, onehot
from dreamstill.losses.statistics import Form, bn_statistics
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.class_images import Size, check_head, generator_of
from dreamstill.methods.parts.decay import Decay, decay
from dreamstill.methods.parts.distance import distance
from dreamstill.methods.parts.replay import check_reuse, remember, replayed, reused
from dreamstill.methods.parts.weighing import Weighing
from dreamstill.networks.generators import Head
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class DDAD(Method):
    """``L_S = D``; ``L_G = -D + alpha L_BN``, of maps ``-log(1 + D) + alpha L_BN``; ``D = mean |S(x) - T(x)|``."""

    paper: ClassVar[str] = "Zhao et al., Dual Discriminator Adversarial Distillation, arXiv:2104.05382, 2021"
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "sides"})
    spares: ClassVar[dict[str, str]] = {"bn": "alpha 0"}
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})

    # the objective
    alpha: Weight | Literal["auto"] = 1.0
    """Weight of L_BN, the mean over the layers (inferred). 0 is DFAD. ``auto`` sets it by the sizes of D and L_BN."""
    alpha_ratio: Positive | None = None
    """Of ``auto``: D over alpha L_BN (inferred). Without it 3; for maps, where the logarithm bounds D, 1."""
    alpha_after: Count = 100
    """Of ``auto``: student steps on the untrained generator's images before alpha is fixed (inferred)."""
    adversarial: Literal["auto", "plain", "log"] = "auto"
    """Worth of D to the generator: D itself or log(1 + D). ``auto``: D, for maps the log (DFAD's code)."""
    w_adv: Weight = 1.0
    """Weight of the adversarial term (DFAD). 0 leaves the first discriminator alone, an ablation."""
    bn_form: Form = "norm"
    """Distance of L_BN: two norms a layer (DeepInversion), their squares, or a divergence of Gaussians."""
    bn_pooled: bool = False
    """Also compare a dense teacher's batch norms that see one value a channel and image (inferred: off)."""
    discrepancy: Literal["l1", "mse", "kl"] = "l1"
    """Distance D between logits (DFAD's code); ``kl`` at temperature ``tau``."""
    tau: Positive = 1.0
    """Temperature of ``kl`` (ours)."""
    student_steps: Count = 5
    """Student steps an iteration, each on its own batch (DFAD's code)."""
    generator_steps: Whole = 1
    """Generator steps an iteration (DFAD's code)."""
    student_mode: Literal["train", "eval"] = "train"
    """The student's mode in the generator's step (DFAD's code)."""
    # networks
    nz: Annotated[Count, Small(8)] = 256
    """Length of the noise (DFAD's code)."""
    width: Annotated[Count, Small(4)] = 64
    """Base width of the generator, ngf (DFAD's code)."""
    size: Size = "small"
    """``small``: DFAD's generator for about 32 pixels; ``large``: its DCGAN type for about 128 (DFAD's code)."""
    head: Head = "standardised"
    """End of the small one: tanh, batch norm (DFAD's); ``tanh``: for mean and std 0.5 (inferred); ``linear`` (ours)."""
    # optimisation
    batch_size: Annotated[Count, Small(16), Batch()] = 256
    """Images a step (DFAD's code on CIFAR)."""
    lr_s: Weight = 0.1
    """Learning rate of the student's SGD (DFAD's code)."""
    momentum: Below1 = 0.9
    """Momentum of the student's SGD (DFAD's code)."""
    weight_decay: Weight = 5e-4
    """Weight decay of the student's SGD (DFAD's code)."""
    lr_g: Weight = 1e-3
    """Learning rate of the generator's Adam (DFAD's code)."""
    schedule: Decay = "step"
    """``step``: times 0.1 at 20 and 40 % (DFAD's code on CIFAR); ``thirds``: at 1/3 and 2/3 (on larger images)."""
    # not in the papers
    clip: Positive | None = None
    """Largest gradient norm of the generator's step; -D is unbounded below (ours)."""
    w_onehot: Weight = 0.0
    """Weight of DAFL's certainty term on the teacher's logits (DAFL)."""
    w_balance: Weight = 0.0
    """Weight of DAFL's class balance term (DAFL)."""
    replay: Below1 = 0.0
    """Share of the student's steps that learn from stored images; in whole steps (ours)."""
    bank: Annotated[Count, Small(64)] = 20_000
    """Images stored for ``replay`` or ``reuse`` (ours)."""
    crop: Whole = 0
    """Replayed images are padded by so many pixels and cropped back (ours)."""
    flip: bool = False
    """Replayed images are mirrored at random; not for digits and letters (ours)."""
    reuse: bool = False
    """Learn from the generator step's own images, new and stored with their logits: one pass, not six (ours)."""

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher: DFAD reads no statistics."""
        return self.needs - {"bn"} if self.alpha == 0 else self.needs

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the generator and the student, each with its optimiser."""
        teacher, self.network = engine.given.teacher, engine.given.student
        generator = generator_of(self.size, self.head)(teacher, self.nz, self.width)
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        adam, course = partial(Adam, lr=self.lr_g), decay(self.schedule)
        self.reads_bn = "bn" in self.needed
        self.teacher = engine.frozen(teacher, bn=self.reads_bn, bn_pooled=self.bn_pooled)
        self.generator, self.opt_g = engine.own("generator", generator, adam, course, self.clip)
        self.student, self.opt_s = engine.own("student", self.network, sgd, course)
        dense = engine.task.name == "segmentation"
        self.logarithm = self.adversarial == "log" or (self.adversarial == "auto" and dense)
        self.weight: Any = self.alpha
        if self.alpha == "auto":
            self.weighing = Weighing(engine, self.alpha_ratio or (1.0 if dense else 3.0))
            self.weight = self.weighing.alpha
        if self.replay > 0 or self.reuse:
            self.stored = engine.bank("images", self.bank, logits=self.reuse, wide=generator.wide)
        self.distance = distance(self.discrepancy, self.tau)
        self.gather, self.average = engine.gather, engine.average

    def phases(self, steps: int) -> list[Phase]:
        """An iteration is ``student_steps`` student steps and then the generator's; ``auto`` weighs alpha before."""
        iterations = -(-steps // self.student_steps)
        first = min(-(-self.alpha_after // self.student_steps), iterations) if self.alpha == "auto" else 0
        weigh = Phase("weigh", first, self.weigh, {"student": decay("constant")})  # its decay begins with the generator
        return [p for p in (weigh, Phase("distil", iterations - first, self.step)) if p.iterations]

    def step(self, engine: Engine) -> None:
        """DFAD's two stages, an iteration of its algorithm. With ``reuse`` the imitation stage comes second."""
        # 1. Imitation stage: G is fixed. The student closes in on the teacher: D(x) falls on k batches x = G(z).
        for i in range(0 if self.reuse else self.student_steps):
            engine.minimise(self.loss_s, self.opt_s, inputs=(self.images(engine, i),))
        # 2. Generation stage: the student is fixed. G looks for hard samples, on which D(x) is large again.
        self.student.train(self.student_mode == "train")
        for _ in range(self.generator_steps):
            x, t = engine.minimise(self.loss_g, self.opt_g, inputs=(engine.noise(self.batch_size, self.nz),))
            if self.reuse:
                newest = remember(engine, self.stored, x, t)
        self.student.train()
        # 1. with reuse: on what the last generator step has made, and on what was made before.
        if self.reuse:
            for x, _, t in reused(engine, self.stored, newest, self.student_steps, self.batch_size):
                engine.minimise(self.loss_s, self.opt_s, inputs=(x, t))

    def loss_s(self, x: Tensor, t: Tensor | None = None) -> Terms:
        """``L_S = D(x)``. The teacher's logits ``t`` are stored ones, or asked for."""
        if t is None:
            with torch.no_grad():
                t = self.teacher(x).logits
        return {"discrepancy": self.distance(self.student(x), t)}

    def loss_g(self, z: Tensor) -> tuple[Terms, tuple[Tensor, Tensor]]:
        """``L_G = -D(x) + alpha L_BN(x)``, and the images with the teacher's logits."""
        x = self.generator(z)
        t = self.teacher(x, stats=self.reads_bn)
        terms = {}
        if self.w_adv > 0:  # the second discriminator, student and teacher; the logarithm is of the mean over all ranks
            d = self.average(self.distance(self.student(x), t.logits))
            terms["adversarial"] = -self.w_adv * (torch.log1p(d) if self.logarithm else d)
        if self.reads_bn:  # the first discriminator, the teacher's memory of its data
            terms["bn"] = self.weight * bn_statistics(t.moments, self.bn_form)
        if self.w_onehot > 0:
            terms["onehot"] = self.w_onehot * onehot(t.logits)
        if self.w_balance > 0:
            terms["balance"] = self.w_balance * balance(self.gather(t.logits))
        return terms, (x, t.logits)

    def images(self, engine: Engine, i: int) -> Tensor:
        """A batch for the iteration's student step ``i``: stored earlier in the first ones, made now in the others."""
        if self.replay == 0:
            return self.make(engine)
        if i < round(self.replay * self.student_steps) and len(self.stored) > 0:
            return replayed(engine, self.stored, self.batch_size, self.crop, self.flip)
        self.stored.add(engine.gather(x := self.make(engine)))
        return x

    def make(self, engine: Engine) -> Tensor:
        """A batch of the generator's."""
        return engine.make(self.generator, engine.noise(self.batch_size, self.nz))

    def weigh(self, engine: Engine) -> None:
        """Student steps on the untrained generator's images, and on one more batch what alpha is made of."""
        for _ in range(self.student_steps):
            engine.minimise(self.loss_s, self.opt_s, inputs=(self.make(engine),))
        with torch.no_grad():
            t = self.teacher(x := self.make(engine), stats=True)
            d = self.average(self.distance(self.student(x), t.logits))
        self.weighing.update(engine, d, bn_statistics(t.moments, self.bn_form))

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of the generator, in batches of training size."""
        return torch.cat([self.make(engine) for _ in range(-(-n // self.batch_size))])[:n]

    def check(self, task: str) -> None:
        """Refuse settings that contradict each other."""
        whole = self.replay * self.student_steps
        if abs(whole - round(whole)) > 1e-6:
            raise InputError(f"replay is {self.replay} of {self.student_steps} student steps: it must make whole ones")
        if self.alpha == 0 and self.w_adv == 0:
            raise InputError("alpha and w_adv are 0, so the generator has no loss: give one of them")
        check_head(self.size, self.head)
        if self.reuse:
            check_reuse(self.generator_steps, task, moved=self.replay > 0 or self.crop > 0 or self.flip)
