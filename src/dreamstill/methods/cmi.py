"""CMI: contrastive model inversion. Fang et al., IJCAI 2021, arXiv:2105.08584. Page: docs/methods/cmi.md.

Each small batch of images has a generator of its own, optimised together with its noise as in model inversion. A
contrast asks more of them: each image has to be told from all others, of this batch and of earlier ones, by a head that
learns to do so on the teacher's features. Recipe: recipes/cmi_fashion_lenet5.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from dreamstill.data.augment import crop_flip, resized_crop
from dreamstill.engine import Engine, Terms
from dreamstill.losses.contrastive import instance_contrast
from dreamstill.losses.distillation import agreed_kl, kl
from dreamstill.losses.statistics import Over, bn_statistics
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.codes import Codes
from dreamstill.methods.parts.contrast import penultimate
from dreamstill.methods.parts.decay import Decay, decay
from dreamstill.methods.parts.fixed_views import FixedViews
from dreamstill.methods.parts.moment_average import MomentAverage
from dreamstill.networks.generators import Generator, Head
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Range, Small, Weight, Whole


@dataclass
class CMI(Method):
    """``L_G = w_label CE(T(x), y) + w_bn L_BN - w_adv m KL(x) + w_cr L_cr``, ``L_S = KL_tau(T(x) || S(x))``.

    m: 1 where teacher and student have one answer. ``L_cr``: cross-entropy of knowing an image by another view of it,
    among this batch and a memory of earlier ones; of h(f(x)), f the teacher's features, h a head that descends it too.
    """

    paper: ClassVar[str] = (
        "Fang et al., Contrastive Model Inversion for Data-Free Knowledge Distillation, IJCAI 2021, arXiv:2105.08584"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "linear_head", "sides"})
    spares: ClassVar[dict[str, str]] = {"bn": "w_bn 0", "linear_head": "w_cr 0"}
    shows: ClassVar[Shows] = "stored"
    paper_settings: ClassVar[dict[str, Any]] = {  # the released command's for CIFAR-10 without images to begin with
        "inner_steps": 200, "images": 256, "w_label": 1.0, "w_bn": 1.0, "bn_over": "sum", "w_adv": 0.5,
        "memory": 40_960, "negatives": 4096, "bn_memory": 0.0, "width": 64, "student_steps": 400, "warmup": 1,
        "batch_size": 128, "lr_g": 1e-3, "schedule": "step",
    }  # fmt: skip

    # the images
    inner_steps: Annotated[Count, Small(2)] = 40
    """Steps in which a generator and its noise make a batch (ours; paper: 500; paper's code: 200)."""
    images: Annotated[Count, Batch(), Small(16)] = 128
    """Images of such a batch (ours; paper's code: 256)."""
    bank: Annotated[Count, Small(64)] = 60_000
    """Images kept (ours; paper's code keeps all)."""
    w_label: Weight = 0.5
    """Weight of the teacher's cross-entropy with the class that was drawn (paper's code: 0.5, without start set 1)."""
    w_bn: Weight = 30.0
    """Weight of L_BN (ours; paper's code: 1 of the sum)."""
    bn_over: Over = "mean"
    """L_BN is the ``mean`` over the layers (ours), or their ``sum`` (paper's code)."""
    w_adv: Weight = 0.1
    """Weight of the adversarial term (ours; paper's code: 0.5)."""
    w_cr: Weight = 0.8
    """Weight of the contrast (paper's code)."""
    tau_cr: Positive = 0.1
    """Temperature of the contrast (paper's code)."""
    memory: Annotated[Count, Small(32)] = 8192
    """Earlier images whose features are kept (ours; paper's code: 40,960)."""
    negatives: Annotated[Count, Batch(), Small(16)] = 1024
    """How many of them, drawn anew in each step, an image is told from (ours; paper's code: 4,096)."""
    local: Annotated[float, Range(low=0, high=1, open_low=True)] = 0.25
    """Least share of an image's area in its second view (paper's code, as remembered)."""
    dim: Annotated[Count, Small(8)] = 128
    """Length of what the head gives (paper's code, as remembered)."""
    bn_memory: Below1 = 0.9
    """Share of earlier batches in the statistics that L_BN compares (ours, from Fast's code; the paper: 0)."""
    # networks
    nz: Annotated[Count, Small(8)] = 256
    """Length of the noise (paper's code, as remembered)."""
    width: Annotated[Count, Small(4)] = 32
    """Base width of the generator (ours; paper's code, as remembered: 64)."""
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
    student_steps: Annotated[Count, Small(2)] = 160
    """Student steps to each new batch of images (ours; paper's code: 400)."""
    warmup: Annotated[Count, Small(1)] = 10
    """Batches of images that are made before the student begins (ours; paper's code: a set of another run)."""
    batch_size: Annotated[Count, Batch(), Small(16)] = 64
    """Images of a student step (ours; paper's code: 128)."""
    lr_g: Weight = 2e-3
    """Learning rate of the Adam of generator, noise and head (ours; paper's code: 1e-3)."""
    lr_s: Weight = 0.1
    """Learning rate of the student's SGD (paper's code)."""
    momentum: Below1 = 0.9
    """Momentum of the student's SGD (paper's code, as remembered)."""
    weight_decay: Weight = 1e-4
    """Weight decay of the student's SGD (paper's code, as remembered)."""
    schedule: Decay = "cosine"
    """Of its learning rate (ours); ``step``: times 0.1 at 62.5, 75 and 87.5 % (paper's code)."""

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        spared = {need for need, weight in {"bn": self.w_bn, "linear_head": self.w_cr}.items() if weight == 0}
        return self.needs - spared

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, generator, noise and head, the student, the images' bank and the features' memory."""
        given, self.gather, self.mine = engine.given, engine.gather, engine.mine
        teacher, self.network = given.teacher, given.student
        adam = partial(Adam, lr=self.lr_g, betas=(0.5, 0.999))
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.taps, d = penultimate(teacher, "teacher", "w_cr to 0") if self.w_cr > 0 else ([], 1)
        self.teacher = engine.frozen(teacher, taps=self.taps, bn=self.w_bn > 0)
        generator, codes = Generator(teacher, self.nz, self.width, head=self.head), Codes(self.images, self.nz)
        self.generator, self.opt_g = engine.own("generator", generator, adam)
        _, self.opt_z = engine.own("codes", codes, adam)
        self.z, self.made = codes.z, [self.opt_g, self.opt_z]
        if self.w_cr > 0:
            head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, self.dim))
            self.h, opt_h = engine.own("head", head, adam)
            self.made += [opt_h]
        self.student, self.opt_s = engine.own("student", self.network, sgd, decay(self.schedule, (0.625, 0.75, 0.875)))
        self.fixed = FixedViews(engine, self.bank, self.views, self.crop, self.flip, wide=generator.wide)
        self.earlier = engine.buffer("earlier", torch.zeros(self.memory, d, dtype=engine.dtype))
        self.statistics = MomentAverage(engine, teacher, self.bn_memory) if self.w_bn > 0 else None

    def phases(self, steps: int) -> list[Phase]:
        """Some batches of images first, then a batch every ``student_steps`` student steps."""
        first = Phase("warm up", self.warmup, self.synthesis, alike=True)
        return [first, Phase("distil", -(-steps // self.student_steps), self.step, alike=True)]

    def step(self, engine: Engine) -> None:
        """One batch of images, and the student's steps on all that are stored."""
        self.synthesis(engine)
        # 4. The student learns the teacher's answers, which are known.
        for _ in range(self.student_steps):
            x, t = self.fixed.draw(engine, self.batch_size)
            engine.minimise(self.loss_s, self.opt_s, inputs=(x, t))

    def synthesis(self, engine: Engine) -> None:
        """Invert one batch of images and store it."""
        # 1. A new generator, new noise, and the classes of the batch. The head goes on learning.
        engine.redraw(self.generator.module)
        with torch.no_grad():
            self.z.copy_(engine.gather(engine.noise(self.images, self.nz)))
        engine.restart(self.opt_g)
        engine.restart(self.opt_z)
        y = engine.labels(self.images)
        # 2. Descend L_G: two views of each image, told from some of the earlier images.
        self.student.eval()
        known = min(self.fixed.bank.added, self.memory) if self.w_cr > 0 else 0
        for _ in range(self.inner_steps):
            others = engine.gather(engine.integers(known, self.negatives)) if known else engine.labels(0)
            views = (*self.fixed.any_view(engine, self.images), engine.uniform(self.images, 4))
            moments = engine.minimise(self.loss_g, *self.made, inputs=(y, *views, self.earlier[others]))
        if self.statistics is not None:
            self.statistics.update(moments)
        self.student.train()
        # 3. Store the images with the teacher's logits of their views, and their features in the memory.
        x = engine.make(self.generator, self.mine(self.z))
        place = (self.fixed.bank.added + torch.arange(self.images, device=engine.device)) % self.memory
        self.fixed.add(engine, x, y, self.teacher)
        if self.w_cr > 0:
            features = engine.gather(engine.make(self.teacher, x).taps[self.taps[0]])
            self.earlier[place[-self.memory :]] = features[-self.memory :].to(self.earlier.dtype)

    def loss_g(
        self, y: Tensor, shift: Tensor, coins: Tensor, uniform: Tensor, earlier: Tensor
    ) -> tuple[Terms, Iterable[tuple[Tensor, Tensor]]]:
        """``L_G`` on randomly cropped and mirrored images, and the batch's statistics."""
        image = self.generator(self.mine(self.z))
        x = crop_flip(image, shift, coins if self.flip else None, self.crop)
        t = self.teacher(x, stats=self.w_bn > 0)
        terms, batch = {"label": self.w_label * F.cross_entropy(t.logits, y)}, []
        if self.statistics is not None:
            terms["bn"] = self.w_bn * bn_statistics(self.statistics.mix(t.moments), over=self.bn_over)
            batch = [(m.mean, m.var) for m in t.moments]
        if self.w_adv > 0:
            terms["adversarial"] = -self.w_adv * agreed_kl(self.student(x), t.logits)
        if self.w_cr > 0:
            part = self.teacher(resized_crop(image, uniform, coins if self.flip else None, self.local))
            q, k = (self.gather(self.told(seen.taps[self.taps[0]])) for seen in (part, t))
            terms["contrast"] = self.w_cr * instance_contrast(q, k, self.told(earlier), self.tau_cr)
        return terms, batch

    def told(self, features: Tensor) -> Tensor:
        """Features (``b d``) as the head sees them, of unit length."""
        return F.normalize(self.h(features))

    def loss_s(self, x: Tensor, t: Tensor) -> Terms:
        """``L_S``: KL at temperature tau with the stored logits."""
        return {"kl": kl(self.student(x), t, self.tau)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """A draw from the bank."""
        return self.fixed.bank.draw(engine.integers(len(self.fixed.bank), n), engine.dtype).images
