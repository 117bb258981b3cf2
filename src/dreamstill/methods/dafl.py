"""DAFL: data-free learning of student networks. Chen et al., ICCV 2019, arXiv:1904.01186. Page: docs/methods/dafl.md.

The teacher is a fixed discriminator: a generator makes what the teacher is sure of, what excites its features, and what
covers all classes. Recipe: recipes/dafl_fashion_lenet5.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.engine import Engine, Terms
from dreamstill.losses.distillation import kl
from dreamstill.losses.prior import activation, balance, onehot
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.class_images import Size, check_head, check_weights, generator_of
from dreamstill.methods.parts.contrast import penultimate
from dreamstill.methods.parts.decay import Decay, decay
from dreamstill.networks.generators import Head
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Small, Weight


@dataclass
class DAFL(Method):
    """``L_G = w_onehot L_oh + alpha L_a + beta L_ie``, ``L_S = KL(T(x) || S(x))``.

    ``L_oh``: cross-entropy of T(x) with its own answer, eq. (3). ``L_a``: minus the mean size of the features,
    eq. (4). ``L_ie``: minus the entropy of the batch's mean prediction, eq. (5).
    """

    paper: ClassVar[str] = "Chen et al., Data-Free Learning of Student Networks, ICCV 2019, arXiv:1904.01186"
    needs: ClassVar[frozenset[str]] = frozenset({"input_gradient", "linear_head", "sides"})
    paper_settings: ClassVar[dict[str, Any]] = {  # the released command's for CIFAR-10
        "w_onehot": 0.05, "alpha": 0.01, "nz": 1000, "batch_size": 1024, "lr_g": 0.02, "schedule": "step",
    }  # fmt: skip

    # the objective
    w_onehot: Weight = 1.0
    """Weight of L_oh (paper; released code: 1 on MNIST, 0.05 on CIFAR-10, 0.5 on CIFAR-100)."""
    alpha: Weight = 0.1
    """Weight of L_a, a mean over the features (released code: 0.1 on MNIST and CIFAR-100, 0.01 on CIFAR-10)."""
    beta: Weight = 5.0
    """Weight of L_ie (released code: 5 on MNIST and CIFAR-10, 20 on CIFAR-100)."""
    tau: Positive = 1.0
    """Temperature of the distillation (paper: none)."""
    # networks
    nz: Annotated[Count, Small(8)] = 256
    """Length of the noise (ours; released code: 100 on MNIST, 1,000 on CIFAR)."""
    width: Annotated[Count, Small(4)] = 64
    """Base width of the generator (released code, as remembered)."""
    size: Size = "small"
    """``small``: for about 32 pixels (released code); ``large``: the DCGAN type for about 128 (ours)."""
    head: Head = "standardised"
    """End of the small one: tanh, batch norm (released code, as remembered); or others, see Generator (ours)."""
    # optimisation
    batch_size: Annotated[Count, Batch(), Small(16)] = 256
    """Images a step (ours; released code: 512 on MNIST, 1,024 on CIFAR)."""
    lr_g: Weight = 1e-3
    """Learning rate of the generator's Adam (ours; released code: 0.2 on MNIST, 0.02 on CIFAR)."""
    lr_s: Weight = 0.1
    """Learning rate of the student's SGD (released code on CIFAR)."""
    momentum: Below1 = 0.9
    """Momentum of the student's SGD (released code on CIFAR, as remembered)."""
    weight_decay: Weight = 5e-4
    """Weight decay of the student's SGD (released code on CIFAR, as remembered)."""
    schedule: Decay = "cosine"
    """Of the student's learning rate (ours); ``step``: times 0.1 at 40 and 80 % (released code, as remembered)."""

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher."""
        return self.needs if self.alpha > 0 else self.needs - {"linear_head"}

    def setup(self, engine: Engine) -> None:
        """The frozen teacher with its features, the generator and the student."""
        teacher, self.network, self.gather = engine.given.teacher, engine.given.student, engine.gather
        self.features = penultimate(teacher, "teacher", "alpha to 0")[0] if self.alpha > 0 else []
        self.teacher = engine.frozen(teacher, taps=self.features)
        generator = generator_of(self.size, self.head)(teacher, self.nz, self.width)
        sgd = partial(SGD, lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay)
        self.generator, self.opt_g = engine.own("generator", generator, partial(Adam, lr=self.lr_g))
        self.student, self.opt_s = engine.own("student", self.network, sgd, decay(self.schedule, (0.4, 0.8)))

    def phases(self, steps: int) -> list[Phase]:
        """An iteration is one step of each network."""
        return [Phase("distil", steps, self.step)]

    def step(self, engine: Engine) -> None:
        """The algorithm: generator and student learn from the same batch."""
        # 1. Images of noise: x = G(z). The generator descends L_G.
        z = engine.noise(self.batch_size, self.nz)
        x, t = engine.minimise(self.loss_g, self.opt_g, inputs=(z,))
        # 2. The student descends L_S on the same images, whose logits are known.
        engine.minimise(self.loss_s, self.opt_s, inputs=(x, t))

    def loss_g(self, z: Tensor) -> tuple[Terms, tuple[Tensor, Tensor]]:
        """``L_G``, and the images with the teacher's logits."""
        x = self.generator(z)
        t = self.teacher(x)
        terms = {}
        if self.w_onehot > 0:
            terms["onehot"] = self.w_onehot * onehot(t.logits)
        if self.alpha > 0:
            terms["activation"] = self.alpha * activation(t.taps[self.features[0]])  # itself below 0
        if self.beta > 0:
            terms["balance"] = self.beta * balance(self.gather(t.logits))
        return terms, (x, t.logits)

    def loss_s(self, x: Tensor, t: Tensor) -> Terms:
        """``L_S``."""
        return {"kl": kl(self.student(x), t, self.tau)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of the generator, in batches of training size."""
        made = [
            engine.make(self.generator, engine.noise(self.batch_size, self.nz)) for _ in range(-(-n // self.batch_size))
        ]
        return torch.cat(made)[:n]

    def check(self, task: str) -> None:
        """Refuse settings that contradict each other."""
        weights = {"w_onehot": self.w_onehot, "alpha": self.alpha, "beta": self.beta}
        check_weights(weights, "the generator has nothing to learn")
        check_head(self.size, self.head)
