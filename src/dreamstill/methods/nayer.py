"""NAYER: noisy layer data generation. Tran et al., CVPR 2024, arXiv:2310.00258. Page: docs/methods/nayer.md.

A generator is fed with embeddings of the classes, the same for every image of a class. What differs is a linear layer
between: it is drawn anew for each batch, so the randomness lies in weights that learn too and not in the input. The
paper's embeddings are CLIP's of the class names. Here they are one-hot unless a file gives others: that is ours.
Recipe: recipes/nayer_fashion_lenet5.yaml.
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

from dreamstill.data.augment import crop_flip
from dreamstill.data.class_vectors import read_class_vectors
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.losses.distillation import agreed_kl, kl
from dreamstill.losses.statistics import Over, bn_statistics
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.fixed_views import FixedViews
from dreamstill.methods.parts.moment_average import MomentAverage
from dreamstill.networks.generators import Generator, Head
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight, Whole


class NoisyLayers(nn.Module):
    """``z_i = W_l norm(e_y) + b_l``: a layer l for every ``k`` images in a row, which are of the ``k`` classes.

    So two images of a batch never have class and layer in common. A batch norm before the layers would see every class
    equally often, and W takes in its scale and shift: so its result is computed once.
    """

    inputs: Tensor

    def __init__(self, embeddings: Tensor, images: int, nz: int) -> None:
        super().__init__()
        self.k, d = embeddings.shape
        var, mean = torch.var_mean(embeddings, dim=0, correction=0)
        self.register_buffer("inputs", (embeddings - mean) / (var + 1e-5).sqrt(), persistent=False)
        self.linear = [nn.Linear(d, nz) for _ in range(-(-images // self.k))]
        self.layers = nn.ModuleList(self.linear)

    def forward(self, image: Tensor) -> Tensor:
        """The places of images in the batch (int64 ``b``) to ``b nz``."""
        every = torch.stack([layer.weight for layer in self.linear]), torch.stack([layer.bias for layer in self.linear])
        weight, bias = (x[image // self.k] for x in every)
        return torch.einsum("bzd,bd->bz", weight, self.inputs[image % self.k]) + bias


@dataclass
class NAYER(Method):
    """``L_G = w_label CE(T(x), y) + w_bn L_BN - w_adv m KL(x)``, ``x = G(W norm(e_y))``, W drawn anew for each batch.

    ``L_S = KL_tau(T(x) || S(x))``. m: 1 where teacher and student have one answer.
    """

    paper: ClassVar[str] = (
        "Tran et al., NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free Knowledge Distillation, "
        "CVPR 2024, arXiv:2310.00258"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"bn", "input_gradient", "sides"})
    spares: ClassVar[dict[str, str]] = {"bn": "w_bn 0"}
    shows: ClassVar[Shows] = "stored"
    paper_settings: ClassVar[dict[str, Any]] = {  # the released command's for CIFAR-10
        "inner_steps": 30, "images": 400, "w_bn": 10.0, "bn_over": "sum", "w_adv": 1.33, "nz": 1000, "width": 64,
        "student_steps": 200, "warmup": 200, "batch_size": 512, "lr_s": 0.2,
    }  # fmt: skip

    # the images
    embeddings: str | None = None
    """A .npy or .safetensors file of a vector a class (paper: CLIP's of their names); without it one-hot (ours)."""
    inner_steps: Annotated[Count, Small(2)] = 10
    """Steps of generator and noisy layers on a batch (ours; paper's code: 30 on CIFAR-10, 40 on CIFAR-100)."""
    images: Annotated[Count, Batch(), Small(16)] = 128
    """Images of such a batch (ours; paper's code: 400)."""
    life: Count = 20
    """Batches after which the generator is drawn anew (paper's code, inferred: 10 epochs of two batches)."""
    bank: Annotated[Count, Small(64)] = 60_000
    """Images kept (ours; paper's code keeps all)."""
    w_label: Weight = 0.5
    """Weight of the teacher's cross-entropy with the class (paper's code)."""
    w_bn: Weight = 30.0
    """Weight of L_BN (ours; paper's code: 10 of the sum)."""
    bn_over: Over = "mean"
    """L_BN is the ``mean`` over the layers (ours), or their ``sum`` (paper's code)."""
    w_adv: Weight = 0.1
    """Weight of the adversarial term (ours; paper's code: 1.33)."""
    bn_memory: Below1 = 0.9
    """Share of earlier batches in the statistics that L_BN compares (ours, from Fast's code)."""
    # networks
    nz: Annotated[Count, Small(8)] = 256
    """Length of what the noisy layer gives (ours; paper, as remembered: 1,000)."""
    width: Annotated[Count, Small(4)] = 32
    """Base width of the generator (ours; paper's code, as remembered: 64)."""
    head: Head = "linear"
    """End of the generator: see :class:`dreamstill.networks.generators.Generator` (ours)."""
    # what the student sees
    crop: Whole = 4
    """Images are padded by so many pixels and cropped back, before the teacher too (inferred from Fast's code)."""
    flip: bool = True
    """Images are mirrored at random; not for digits and letters (inferred from Fast's code)."""
    views: Count = 8
    """Fixed crops of each stored image whose logits are kept: a student step then needs no teacher (ours)."""
    tau: Positive = 20.0
    """Temperature of the distillation (inferred from Fast's code)."""
    # optimisation
    student_steps: Annotated[Count, Small(2)] = 40
    """Student steps to each new batch of images (ours; paper's code, as remembered: 400 to two batches)."""
    warmup: Annotated[Count, Small(1)] = 10
    """Batches of images that are made before the student begins (ours; paper's code: 20 epochs of ten)."""
    batch_size: Annotated[Count, Batch(), Small(16)] = 64
    """Images of a student step (ours; paper's code: 512)."""
    lr_g: Weight = 4e-3
    """Learning rate of the Adam of generator and noisy layers (paper's code)."""
    lr_s: Weight = 0.1
    """Learning rate of the student's SGD, along a cosine (ours; paper's code: 0.2 at batches of 512)."""
    momentum: Below1 = 0.9
    """Momentum of the student's SGD (inferred from Fast's code)."""
    weight_decay: Weight = 1e-4
    """Weight decay of the student's SGD (inferred from Fast's code)."""

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        return self.needs - {"bn"} if self.w_bn == 0 else self.needs

    @property
    def outside_used(self) -> tuple[str, ...]:
        """Vectors of the classes, if a file gave them."""
        return ("vectors of the class names, from a file",) if self.embeddings else ()

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the noisy layers over the embeddings, the generator, the student and the bank."""
        given = engine.given
        teacher, self.network = given.teacher, given.student
        self.classes = k = teacher.num_classes
        embeddings = read_class_vectors(self.embeddings, k) if self.embeddings else torch.eye(k)
        noisy, adam = NoisyLayers(embeddings, self.images, self.nz), partial(Adam, lr=self.lr_g, betas=(0.5, 0.999))
        generator = Generator(teacher, self.nz, self.width, head=self.head)
        self.teacher = engine.frozen(teacher, bn=self.w_bn > 0)
        self.noisy, self.opt_z = engine.own("noisy", noisy, adam)
        self.generator, self.opt_g = engine.own("generator", generator, adam)
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.student, self.opt_s = engine.own("student", self.network, sgd, cosine)
        self.fixed = FixedViews(engine, self.bank, self.views, self.crop, self.flip, wide=generator.wide)
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
        """Make one batch of images and store it."""
        # 1. Draw the noisy layers anew, and now and then the generator. Every layer makes one image of each class.
        engine.redraw(self.noisy.module)
        engine.restart(self.opt_z)
        if engine.iteration % self.life == 0:
            engine.redraw(self.generator.module)
            engine.restart(self.opt_g)
        image = engine.mine(torch.arange(self.images, device=engine.device))
        engine.draws.drawn += self.images  # no noise is drawn for them, by which images are counted
        # 2. Some steps of both on L_G.
        self.student.eval()
        for _ in range(self.inner_steps):
            inputs = (image, *self.fixed.any_view(engine, self.images))
            moments = engine.minimise(self.loss_g, self.opt_g, self.opt_z, inputs=inputs)
        if self.statistics is not None:
            self.statistics.update(moments)
        self.student.train()
        # 3. Store what they make, with the teacher's logits of its views.
        x = engine.make(self.made, image)
        self.fixed.add(engine, x, image % self.classes, self.teacher)

    def made(self, image: Tensor) -> Tensor:
        """The images (``b c h w``) at these places of the batch."""
        return self.generator(self.noisy(image))

    def loss_g(self, image: Tensor, shift: Tensor, coins: Tensor) -> tuple[Terms, Iterable[tuple[Tensor, Tensor]]]:
        """``L_G``, on randomly cropped and mirrored images, and the batch's statistics."""
        x = crop_flip(self.made(image), shift, coins if self.flip else None, self.crop)
        t = self.teacher(x, stats=self.w_bn > 0)
        terms, seen = {"label": self.w_label * F.cross_entropy(t.logits, image % self.classes)}, []
        if self.statistics is not None:
            terms["bn"] = self.w_bn * bn_statistics(self.statistics.mix(t.moments), over=self.bn_over)
            seen = [(m.mean, m.var) for m in t.moments]
        if self.w_adv > 0:
            terms["adversarial"] = -self.w_adv * agreed_kl(self.student(x), t.logits)
        return terms, seen

    def loss_s(self, x: Tensor, t: Tensor) -> Terms:
        """``L_S``: KL at temperature tau with the stored logits."""
        return {"kl": kl(self.student(x), t, self.tau)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """A draw from the bank."""
        return self.fixed.bank.draw(engine.integers(len(self.fixed.bank), n), engine.dtype).images
