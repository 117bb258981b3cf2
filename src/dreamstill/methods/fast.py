"""Fast: up to 100x faster data-free distillation. Fang et al., AAAI 2022, arXiv:2112.06253. Page: docs/methods/fast.md.

A generator is adapted to each small batch of images in a few steps, together with the noise it starts from. It begins
at weights that were learnt to be quickly adapted. What one batch has cost is paid once: its images are stored, and the
student learns from all that are stored. The losses are those of CMI (Fang et al., arXiv:2105.08584).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from dreamstill.data.augment import crop_flip
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.losses.distillation import agreed_kl, kl
from dreamstill.losses.statistics import Over, bn_statistics
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.codes import Codes
from dreamstill.methods.parts.fixed_views import FixedViews
from dreamstill.methods.parts.moment_average import MomentAverage
from dreamstill.networks.generators import Generator, Head, LargeGenerator
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


@dataclass
class Fast(Method):
    """``L_G = w_bn L_BN + w_label CE(T(x), y) - w_adv m KL(x)``, ``L_S = KL_tau(x)``; m: the student is right."""

    paper: ClassVar[str] = (
        "Fang et al., Up to 100x Faster Data-Free Knowledge Distillation, AAAI 2022, arXiv:2112.06253"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "sides"})
    spares: ClassVar[dict[str, str]] = {"bn": "w_bn 0"}
    shows: ClassVar[Shows] = "stored"
    paper_settings: ClassVar[dict[str, Any]] = {  # the released script's, of ten steps a batch
        "images": 200, "w_bn": 10.0, "bn_over": "sum", "w_label": 0.4, "w_adv": 1.1, "width": 64, "student_steps": 400,
        "warmup": 20, "batch_size": 256, "lr_s": 0.2,
    }  # fmt: skip

    # the images
    inner_steps: Annotated[Count, Small(2)] = 10
    """Steps in which generator and noise are adapted to a batch of images (paper: 2, 5 or 10)."""
    images: Annotated[Count, Small(16)] = 128
    """Images of such a batch (ours; the released code takes 200)."""
    bank: Annotated[Count, Small(64)] = 60_000
    """Images kept (ours; the released code keeps all)."""
    meta: Literal["reptile", "off"] = "reptile"
    """How the generator's first weights are learnt: toward the adapted ones (paper, Reptile), or never."""
    w_bn: Weight = 30.0
    """Weight of L_BN (ours)."""
    bn_over: Over = "mean"
    """L_BN is the ``mean`` over the layers (ours), or their ``sum`` (paper's code)."""
    w_label: Weight = 0.5
    """Weight of the teacher's cross-entropy with the class that was drawn (ours)."""
    w_adv: Weight = 0.0
    """Weight of the adversarial term (ours: off)."""
    bn_memory: Below1 = 0.9
    """Share of earlier batches in the statistics that L_BN compares (paper's code: 0.9 on CIFAR-10)."""
    # networks
    nz: Annotated[Count, Small(8)] = 256
    """Length of the noise (paper's code)."""
    width: Annotated[Count, Small(4)] = 32
    """Base width of the generator (ours; paper's code: 64)."""
    size: Literal["small", "large"] = "small"
    """``small``: for about 32 pixels (paper's code); ``large``: the DCGAN type for about 128 (ours)."""
    head: Head = "linear"
    """End of the generator: see :class:`dreamstill.networks.generators.Generator` (ours)."""
    # what the student sees
    crop: Whole = 4
    """Images are padded by so many pixels and cropped back, before the teacher too (paper's code)."""
    flip: bool = True
    """Images are mirrored at random; not for digits and letters (paper's code)."""
    views: Count = 8
    """Fixed crops of each stored image whose logits are kept: a student step then needs no teacher (ours)."""
    tau: Positive = 20.0
    """Temperature of the distillation (paper's code)."""
    # optimisation
    student_steps: Annotated[Count, Small(2)] = 40
    """Student steps to each new batch of images (ours)."""
    warmup: Annotated[Count, Small(1)] = 10
    """Batches of images that are made before the student begins (ours)."""
    batch_size: Annotated[Count, Small(16), Batch()] = 64
    """Images of a student step (ours; paper's code: 256)."""
    lr_g: Weight = 2e-3
    """Learning rate of the generator's Adam, in adapting (ours)."""
    lr_z: Weight = 1e-2
    """Learning rate of the noise's Adam (ours)."""
    lr_meta: Weight = 2e-3
    """Learning rate of the Adam that moves the first weights (ours)."""
    lr_s: Weight = 0.1
    """Learning rate of the student's SGD, along a cosine (paper's code)."""
    momentum: Below1 = 0.9
    """Momentum of the student's SGD (paper's code)."""
    weight_decay: Weight = 1e-4
    """Weight decay of the student's SGD (paper's code)."""

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        return self.needs - {"bn"} if self.w_bn == 0 else self.needs

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the generator with a copy that is adapted, the noise, the student and the bank."""
        given = engine.given
        adam = partial(Adam, betas=(0.5, 0.999))
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        form = LargeGenerator if self.size == "large" else partial(Generator, head=self.head)
        first, adapted = (form(given.teacher, self.nz, self.width) for _ in range(2))
        self.teacher = engine.frozen(given.teacher, bn=self.w_bn > 0)
        self.first, self.opt_first = engine.own("first", first, partial(adam, lr=self.lr_meta))
        self.generator, self.opt_g = engine.own("generator", adapted, partial(adam, lr=self.lr_g))
        codes = Codes(self.images, self.nz)
        _, self.opt_z = engine.own("codes", codes, partial(adam, lr=self.lr_z))
        self.z, self.mine = codes.z, engine.mine  # all ranks hold the noise of all images
        self.network = given.student
        self.student, self.opt_s = engine.own("student", self.network, sgd, cosine)
        self.fixed = FixedViews(engine, self.bank, self.views, self.crop, self.flip, wide=first.wide)
        self.statistics = MomentAverage(engine, given.teacher, self.bn_memory) if self.w_bn > 0 else None

    def phases(self, steps: int) -> list[Phase]:
        """Some batches of images first, then a batch every ``student_steps`` student steps."""
        return [
            Phase("warm up", self.warmup, self.synthesis, alike=True),
            Phase("distil", -(-steps // self.student_steps), self.step, alike=True),
        ]

    def step(self, engine: Engine) -> None:
        """One batch of images, and the student's steps on all that are stored."""
        self.synthesis(engine)
        for _ in range(self.student_steps):
            x, t = self.fixed.draw(engine, self.batch_size)
            engine.minimise(self.loss_s, self.opt_s, inputs=(x, t))

    def synthesis(self, engine: Engine) -> None:
        """Adapt the generator and the noise to one batch, store its images, move the first weights."""
        # 1. Begin at the first weights, with new noise; draw the classes of the batch.
        copy_into(self.opt_first.params, self.opt_g.params)
        with torch.no_grad():
            self.z.copy_(engine.gather(engine.noise(self.images, self.nz)))
        y = engine.labels(self.images)
        engine.restart(self.opt_g)
        engine.restart(self.opt_z)
        self.student.eval()
        # 2. Some steps on L_G: images that fit the statistics, the class, and on which the student is wrong.
        for _ in range(self.inner_steps):
            shift, coins = self.fixed.any_view(engine, self.images)
            inputs = (y, shift, coins)
            moments = engine.minimise(self.loss_g, self.opt_g, self.opt_z, inputs=inputs)
        if self.statistics is not None:
            self.statistics.update(moments)
        self.student.train()
        # 3. Store what the adapted generator makes, with the teacher's logits of its views.
        x = engine.make(self.generator, engine.mine(self.z))
        self.fixed.add(engine, x, y, self.teacher)
        # 4. Reptile: the first weights move toward the adapted ones.
        if self.meta == "reptile":
            engine.minimise(self.loss_first, self.opt_first)

    def loss_g(self, y: Tensor, shift: Tensor, coins: Tensor) -> tuple[Terms, Iterable[tuple[Tensor, Tensor]]]:
        """``L_G``, on randomly cropped and mirrored images, and the batch's statistics."""
        x = self.generator(self.mine(self.z))
        x = crop_flip(x, shift, coins if self.flip else None, self.crop)
        t = self.teacher(x, stats=self.w_bn > 0)
        terms, seen = {}, []
        if self.statistics is not None:
            moments = self.statistics.mix(t.moments)
            terms["bn"] = self.w_bn * bn_statistics(moments, over=self.bn_over)
            seen = [(m.mean, m.var) for m in t.moments]
        if self.w_label > 0:
            terms["label"] = self.w_label * F.cross_entropy(t.logits, y)
        if self.w_adv > 0:
            terms["adversarial"] = -self.w_adv * agreed_kl(self.student(x), t.logits)
        return terms, seen

    def loss_first(self) -> Terms:
        """Half the squared distance to the adapted weights, whose gradient is Reptile's."""
        pairs = zip(self.opt_first.params, self.opt_g.params, strict=True)
        return {"distance": torch.stack([(a - b.detach()).square().sum() / 2 for a, b in pairs]).sum()}

    def loss_s(self, x: Tensor, t: Tensor) -> Terms:
        """``L_S``: KL at temperature tau with the stored logits."""
        return {"kl": kl(self.student(x), t, self.tau)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """A draw from the bank."""
        return self.fixed.bank.draw(engine.integers(len(self.fixed.bank), n), engine.dtype).images


@torch.no_grad()
def copy_into(source: list[nn.Parameter], target: list[nn.Parameter]) -> None:
    """Parameters of one network into those of another of the same form."""
    for a, b in zip(source, target, strict=True):
        b.copy_(a)
