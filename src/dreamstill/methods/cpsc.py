"""CPSC-DFKD: conditional pseudo-supervised contrast. Shao, Zhang, Wang, Pattern Recognition 143 (2023) 109781.

arXiv:2510.03375. The paper's body could not be read: what is here follows the authors' released code (commit 1c6ade1),
whose defects ``variant="released"`` keeps and the default repairs (``docs/methods/cpsc.md`` lists them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import constant, cosine, step_decay, warm_cosine
from dreamstill.errors import InputError
from dreamstill.losses.contrastive import supervised_contrast
from dreamstill.losses.distillation import kl, mse
from dreamstill.losses.statistics import bn_statistics
from dreamstill.methods import Method, Phase
from dreamstill.networks.generators import Condition, Generator, Head
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Observed, last_linear


@dataclass
class CPSC(Method):
    """A generator that is told the class of each image, ``x = G(z, y)``; y supervises it, the student and a contrast.

    ``L_G = -KL(x) - alpha L_2(x) + beta L_BN(x) + gamma L_SCL(f_S, f_T, y) + eta CE(T(x), y)``,
    ``L_S =  KL(x) + alpha L_2(x) + eta CE(S(x), y)``, with ``KL(x)`` of softmax(T) from softmax(S), ``L_2`` the mean
    squared difference of the logits, ``f`` the penultimate features at unit length.

    Attributes:
        variant: ``repaired``; ``released``: with what is taken for errors of the released code. There the
            generator's Adam is made anew in every step (so that it descends by sign), the cross-entropies take the
            softmax of a softmax, the projection stays untrained and its output at any length, the logarithm of
            ``ikd`` is not guarded against 0.
        alpha: weight of the logit term (released: 5 for CIFAR-100, 1 where the code is not told; in a short trial on
            ten classes 5 drowned the pseudo-labels).
        beta: weight of the batch-norm term (released: 1).
        gamma: weight of the contrast in the generator's loss (released: 0.7); 0 leaves the idea out.
        eta: weight of the pseudo-labels' cross-entropy in the generator's loss (released: 0.7); 0 leaves it out.
        eta_s: the same in the student's loss; None: ``eta`` (released).
        gamma_s: weight of the contrast in the student's loss (released code: 0; a page about the paper can be read
            otherwise).
        condition: how the generator is told the class: ``ccbn``, every batch norm with a scale and a shift of each
            class (released); ``concat``, one-hot beside the noise; ``none``, then gamma and eta have to be 0 as well.
        tau: temperature of the contrast (released: 0.07).
        views: the contrast's views of an image: the features of ``both`` networks (released) or the ``teacher``'s.
        ikd: logit term: ``mse`` (released for CIFAR-100 and Tiny-ImageNet) or ``log_mse`` (for CIFAR-10): log MSE in
            L_G, the log of the difference's norm over the whole batch, half as steep, in L_S.
        bn_layers: batch-norm term as the ``sum`` over the teacher's layers (released) or their ``mean``.
        adversarial: whether L_G has its two negative terms (released).
        detach_teacher: hold the teacher's logits fixed in L_G's KL too, as the released code does in L_2 only.
        student_mode: the student's mode in the generator's step (released: ``train``).
        generator_steps: an iteration's first steps (released: 6), each on noise and labels of its own.
        student_steps: the student's that follow (released: 5), likewise.
        batch_size: images a step (released: 512).
        nz: noise length (released: 256).
        width: the generator's ``ngf`` (released: 64).
        head: how the generator ends: ``standardised`` (released); ``linear``, ``tanh``.
        lr_g: Adam with betas 0.5 and 0.999 (released: 1e-3).
        schedule_g: ``constant`` (in effect the released one); ``step``: times 0.1 at epochs 50 and 150 of 600, which
            the released code has without effect; ``cosine``.
        clip: largest gradient norm of the generator's step; None leaves it alone. (-L_2 is unbounded below.)
        lr_p: Adam of the projection from the student's features to the teacher's width (inferred: 1e-3). It is there
            only where the widths differ, and learns from the contrast alone.
        lr_s: SGD, from 0 up over the warm-up, then along a cosine (released: 0.1).
        warmup: share of the run that warms up (released: 10 of 600 epochs).
        momentum: of the student's SGD (released: 0.9).
        weight_decay: of the student's SGD (released: 5e-4).
        reuse: an iteration's first student step learns from the last generator step's own images, the others from
            stored ones of all, with the logits of the time. Not in the paper (off).
        bank: how many images are stored for that.
    """

    paper: ClassVar[str] = (
        "Shao et al., Conditional Pseudo-Supervised Contrast for Data-Free Knowledge Distillation, "
        "Pattern Recognition 143, 2023, arXiv:2510.03375"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "linear_head", "sides"})
    outside: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[frozenset[str]] = frozenset({"classification"})

    variant: Literal["repaired", "released"] = "repaired"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.7
    eta: float = 0.7
    eta_s: float | None = None
    gamma_s: float = 0.0
    condition: Condition = "ccbn"
    tau: float = 0.07
    views: Literal["both", "teacher"] = "both"
    ikd: Literal["mse", "log_mse"] = "mse"
    bn_layers: Literal["sum", "mean"] = "sum"
    adversarial: bool = True
    detach_teacher: bool = False
    student_mode: Literal["train", "eval"] = "train"
    generator_steps: int = 6
    student_steps: int = 5
    batch_size: int = 512
    nz: int = 256
    width: int = 64
    head: Head = "standardised"
    lr_g: float = 1e-3
    schedule_g: Literal["constant", "step", "cosine"] = "constant"
    clip: float | None = None
    lr_p: float = 1e-3
    lr_s: float = 0.1
    warmup: float = 10 / 600
    momentum: float = 0.9
    weight_decay: float = 5e-4
    reuse: bool = False
    bank: int = 20_000

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        spared = {"bn"} if self.beta == 0 else set()
        return self.needs - spared - (set() if self._contrasts else {"linear_head"})

    @property
    def _contrasts(self) -> bool:
        return self.gamma > 0 or self.gamma_s > 0

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the conditional generator, the student and, between unequal features, a projection."""
        self._check()
        teacher, self.network = engine.given.teacher, engine.given.student
        self.label_weight_s = self.eta if self.eta_s is None else self.eta_s
        self.gather, self.average = engine.gather, engine.average
        self.tap_t, width_t = penultimate(teacher, "teacher") if self._contrasts else ("", 0)
        both = self._contrasts and self.views == "both"
        self.tap_s, width_s = penultimate(self.network, "student") if both else ("", 0)
        taps_t, taps_s = ([tap] if tap else [] for tap in (self.tap_t, self.tap_s))
        self.teacher = engine.frozen(teacher, taps_t, bn=self.beta > 0)

        released = self.variant == "released"
        adam = partial(fresh_adam if released else Adam, lr=self.lr_g, betas=(0.5, 0.999))
        decay = {"constant": constant, "step": step_decay((50 / 600, 150 / 600), 0.1), "cosine": cosine}
        generator = Generator(teacher, self.nz, self.width, self.condition, self.head)
        self.generator, self.opt_g = engine.own("generator", generator, adam, decay[self.schedule_g], self.clip)
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.student, self.opt_s = engine.own("student", self.network, sgd, warm_cosine(self.warmup), taps=taps_s)
        self.stored = engine.bank("images", self.bank, logits=True, wide=generator.wide) if self.reuse else None

        self.project, self.contrast_opts = None, []
        if both and width_s != width_t:
            head = nn.Sequential(nn.Linear(width_s, width_s), nn.ReLU(), nn.Linear(width_s, width_t))
            self.project, opt_p = engine.own("projection", head, None if released else partial(Adam, lr=self.lr_p))
            self.contrast_opts = [] if released else [opt_p]

    def _check(self) -> None:
        if self.condition == "none" and (self.eta or self.eta_s or self._contrasts):
            raise InputError(
                "condition is none, so no image has a class, but pseudo-labels or the contrast ask for one: set eta, "
                "gamma and, where given, eta_s and gamma_s to 0, or take condition ccbn or concat"
            )
        if self.gamma_s > 0 and self.views == "teacher":
            raise InputError(
                "views is teacher, so the contrast cannot teach the student: set gamma_s to 0, or take views both"
            )
        if not self.adversarial and not (self.beta or self.gamma or self.eta):
            raise InputError(
                "adversarial is off and beta, gamma and eta are 0, so the generator has no loss: switch one of them on"
            )
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup is {self.warmup}: it is a share of the run, from 0 to below 1")
        if self.tau <= 0:
            raise InputError(f"tau is {self.tau}: the contrast's temperature must be positive")
        if self.reuse and self.generator_steps < 1:
            raise InputError(
                f"generator_steps is {self.generator_steps}, and reuse learns from their images: give 1 or more"
            )
        if self.reuse and self.gamma_s > 0:
            raise InputError(
                "reuse stores the teacher's logits, and the student's contrast needs its features: leave reuse out, or "
                "set gamma_s to 0"
            )

    def phases(self, steps: int) -> list[Phase]:
        """One phase; an iteration is the generator's steps and then ``student_steps`` of the student."""
        return [Phase("distil", -(-steps // self.student_steps), self.step)]

    def step(self, engine: Engine) -> None:
        """Algorithm: look for images of known classes where the two differ, then imitate on new ones."""
        self.student.train(self.student_mode == "train")
        heads = self.contrast_opts if self.gamma > 0 else []
        for _ in range(self.generator_steps):
            z, y = self.draw(engine)
            images, t = engine.minimise(self.loss_g, self.opt_g, *heads, inputs=(z, y))
            if self.stored is not None:
                self.stored.add(engine.gather(images), engine.gather(y), engine.gather(t))
        self.student.train()
        if self.stored is not None:
            return self.imitate_stored(engine, images, y, t)
        heads = self.contrast_opts if self.gamma_s > 0 else []
        for _ in range(self.student_steps):
            z, y = self.draw(engine)
            images = engine.make(self.generator, z, y)
            engine.minimise(self.loss_s, self.opt_s, *heads, inputs=(images, y))

    def imitate_stored(self, engine: Engine, images: Tensor, y: Tensor, t: Tensor) -> None:
        """The student steps of an iteration: one on what the generator has just made, the others on the bank."""
        assert self.stored is not None
        engine.minimise(self.loss_s, self.opt_s, inputs=(images, y, t))
        for _ in range(self.student_steps - 1):
            old = self.stored.draw(engine.integers(len(self.stored), self.batch_size), engine.dtype)
            engine.minimise(self.loss_s, self.opt_s, inputs=(old.images, old.labels, old.logits))

    def draw(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """Noise ``b nz`` and classes ``b``, independent and uniform."""
        return engine.noise(self.batch_size, self.nz), engine.labels(self.batch_size)

    def loss_g(self, z: Tensor, y: Tensor) -> tuple[Terms, tuple[Tensor, Tensor]]:
        """Generator: images of class y, as the teacher's batch-norm layers know them, on which the two disagree.

        Also the images and the teacher's logits.
        """
        images = self.generator(z, y)
        t, s = self.teacher(images, stats=self.beta > 0), self.student(images)
        fixed = t.logits.detach()
        terms = {}
        if self.adversarial:
            terms["kl"] = -kl(s.logits, fixed if self.detach_teacher else t.logits)
            if self.alpha > 0:
                error = mse(s.logits, fixed)
                terms["logits"] = -self.alpha * (error if self.ikd == "mse" else self.log(error))
        if self.beta > 0:
            layers = len(t.moments) if self.bn_layers == "sum" else 1
            terms["bn"] = self.beta * layers * bn_statistics(t.moments)
        if self.gamma > 0:
            terms["contrast"] = self.gamma * self.contrast(s, t, y)
        if self.eta > 0:
            terms["label"] = self.eta * self.cross_entropy(t.logits, y)
        return terms, (images, t.logits)

    def loss_s(self, images: Tensor, y: Tensor, logits: Tensor | None = None) -> Terms:
        """Student: agree with the teacher, whose logits may be known, and with the class that was asked for."""
        if logits is None:
            with torch.no_grad():
                t = self.teacher(images)
            logits = t.logits
        s = self.student(images)
        terms = {"kl": kl(s.logits, logits)}
        if self.alpha > 0:
            error = mse(s.logits, logits)
            # log ||s - t|| over the whole batch: b k is the number of its logits.
            norm = 0.5 * (self.log(error) + math.log(self.batch_size * s.logits.shape[1]))
            terms["logits"] = self.alpha * (error if self.ikd == "mse" else norm)
        if self.gamma_s > 0:
            terms["contrast"] = self.gamma_s * self.contrast(s, t, y)
        if self.label_weight_s > 0:
            terms["label"] = self.label_weight_s * self.cross_entropy(s.logits, y)
        return terms

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Of logits ``b k`` with classes ``b``; the released code feeds it probabilities, as if they were logits."""
        return F.cross_entropy(logits.softmax(1) if self.variant == "released" else logits, y)

    def contrast(self, s: Observed, t: Observed, y: Tensor) -> Tensor:
        """Features of both networks as two views of each image, the pseudo-label their class."""
        views = [F.normalize(t.taps[self.tap_t])]
        if self.views == "both":
            f_s = F.normalize(s.taps[self.tap_s])
            if self.project is not None:
                f_s = self.project(f_s)
                f_s = f_s if self.variant == "released" else F.normalize(f_s)
            views = [f_s, *views]
        return supervised_contrast([self.gather(v) for v in views], self.gather(y), self.tau)

    def log(self, error: Tensor) -> Tensor:
        """Of the whole batch's error, since a mean of logarithms over ranks is another thing."""
        return (self.average(error) + (0.0 if self.variant == "released" else 1e-6)).log()

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor] | None:
        """A batch as the finished generator makes it, in eval mode, and the classes asked for."""
        if self.condition == "none":
            return None
        z, y = self.draw(engine)
        self.generator.eval()
        images = engine.make(self.generator, z, y)
        self.generator.train()
        return images, y

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of all classes, in batches of training size."""
        batches = range(-(-n // self.batch_size))
        return torch.cat([engine.make(self.generator, *self.draw(engine)) for _ in batches])[:n]


def penultimate(network: Network, role: str) -> tuple[str, int]:
    """The tap that sees what enters the network's classifier, and how many features that is.

    Raises:
        InputError: there is no ``nn.Linear`` in it.
    """
    declared = getattr(
        network.module, "classifier", None
    )  # others than the built-in ones may keep the layer itself there
    name = declared if isinstance(declared, str) else last_linear(network.module)
    if name is None:
        raise InputError(
            f"the {role} {network.name} has no nn.Linear whose input could be its features: the contrast needs them, "
            "so take another network, or set gamma and gamma_s to 0"
        )
    layer = network.module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return f"{name}:input", layer.in_features


def fresh_adam(params: Iterable[nn.Parameter], **settings: Any) -> Adam:
    """Adam that forgets its moments after each step, as if made anew: each weight moves by ``lr g / (|g| + eps)``."""
    opt = Adam(params, **settings)
    opt.register_step_post_hook(lambda opt, _args, _kwargs: opt.state.clear())
    return opt
