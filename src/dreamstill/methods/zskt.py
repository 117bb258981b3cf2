"""ZSKT: zero-shot knowledge transfer. Micaelli and Storkey, NeurIPS 2019, arXiv:1905.09768. Page: docs/methods/zskt.md.

A generator searches for images on which the student does not believe what the teacher believes, and the student learns
from them, the teacher's attention included. Neither labels nor statistics of the teacher are used.
Recipe: recipes/zskt_fashion_lenet5.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.optim import Adam

from dreamstill.engine import Engine, Terms
from dreamstill.losses.attention import AttentionForm
from dreamstill.losses.distillation import kl
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.class_images import Size, check_head, generator_of
from dreamstill.methods.parts.decay import Decay, decay
from dreamstill.methods.parts.feature_pairs import ComparedMaps
from dreamstill.networks.generators import Head
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Observed
from dreamstill.ranges import Batch, Count, Positive, Small, Weight


@dataclass
class ZSKT(Method):
    """``L_G = -KL(T(x) || S(x))``, ``L_S = KL(T(x) || S(x)) + beta L_AT(x)``.

    ``L_AT``: sum over stages of the distance of both networks' normalised attention maps.
    """

    paper: ClassVar[str] = (
        "Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching, NeurIPS 2019, "
        "arXiv:1905.09768"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"input_gradient", "sides"})

    # the objective
    generator_steps: Count = 1
    """Generator steps an iteration, n_G (paper)."""
    student_steps: Annotated[Count, Small(2)] = 10
    """Student steps an iteration, n_S, all on the images of one draw of noise (paper)."""
    tau: Positive = 1.0
    """Temperature of both divergences (released code)."""
    beta: Weight = 250.0
    """Weight of L_AT (released code); 0 compares no maps."""
    at_form: AttentionForm = "squared"
    """Distance of the maps: ``squared`` (inferred from beta's size), or ``norm`` (paper's equation)."""
    teacher_taps: list[str] | None = None
    """Names of the teacher's layers whose maps are compared; without them its built-in stages (paper: its stages)."""
    student_taps: list[str] | None = None
    """The student's, paired with the teacher's from the last backwards."""
    # networks
    nz: Annotated[Count, Small(8)] = 100
    """Length of the noise (released code)."""
    width: Annotated[Count, Small(4)] = 64
    """Base width of the generator (inferred)."""
    size: Size = "small"
    """``small``: three convolutions, for about 32 pixels (paper); ``large``: the DCGAN type for about 128 (ours)."""
    head: Head = "linear"
    """End of the small one: a batch norm alone (released code, as remembered); or others, see Generator (ours)."""
    # optimisation
    batch_size: Annotated[Count, Batch(), Small(16)] = 128
    """Images a step (released code)."""
    lr_g: Weight = 1e-3
    """Learning rate of the generator's Adam (released code)."""
    lr_s: Weight = 2e-3
    """Learning rate of the student's Adam (released code)."""
    schedule: Decay = "cosine"
    """Of both learning rates (paper, as remembered: cosine)."""
    clip: Positive | None = 5.0
    """Largest gradient norm of a step of either network (released code, as remembered)."""

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the generator, the student, and the maps that are compared."""
        teacher, self.network = engine.given.teacher, engine.given.student
        taps = self.teacher_taps, self.student_taps
        self.maps = ComparedMaps(engine, self.beta > 0, *taps, "attention", self.at_form)
        self.teacher = engine.frozen(teacher, self.maps.taps_t)
        generator = generator_of(self.size, self.head)(teacher, self.nz, self.width)
        course = decay(self.schedule)
        self.generator, self.opt_g = engine.own("generator", generator, partial(Adam, lr=self.lr_g), course, self.clip)
        adam = partial(Adam, lr=self.lr_s)
        self.student, self.opt_s = engine.own("student", self.network, adam, course, self.clip, self.maps.taps_s)
        self.maps.settle(engine, self.teacher, self.student, 0.0, adam, course)  # too small maps are left out

    def phases(self, steps: int) -> list[Phase]:
        """An iteration is ``generator_steps`` generator steps and then ``student_steps`` student steps."""
        return [Phase("distil", -(-steps // self.student_steps), self.step)]

    def step(self, engine: Engine) -> None:
        """An iteration of the paper's algorithm 1."""
        # 1. Draw noise for the whole iteration.
        z = engine.noise(self.batch_size, self.nz)
        # 2. Generator: n_G steps up the divergence of beliefs.
        for _ in range(self.generator_steps):
            engine.minimise(self.loss_g, self.opt_g, inputs=(z,))
        # 3. Student: n_S steps down it on the same noise's images, with the teacher's attention. The generator stands
        # still meanwhile, and so do its images and what the teacher says of them.
        x = engine.make(self.generator, z)
        t = engine.make(self.teacher, x)
        for _ in range(self.student_steps):
            engine.minimise(self.loss_s, self.opt_s, inputs=(x, t.logits, *t.taps.values()))

    def loss_g(self, z: Tensor) -> Terms:
        """``L_G``; the student is in training mode, as in its own steps."""
        x = self.generator(z)
        return {"divergence": -kl(self.student(x).logits, self.teacher(x).logits, self.tau)}

    def loss_s(self, x: Tensor, t: Tensor, *maps: Tensor) -> Terms:
        """``L_S`` with the teacher's logits ``t`` and the maps of its stages."""
        s = self.student(x)
        terms = {"divergence": kl(s.logits, t, self.tau)}
        if self.beta > 0:
            seen = Observed(t, dict(zip(self.maps.taps_t, maps, strict=True)), [])
            terms["attention"] = self.beta * self.maps(s, seen)
        return terms

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Fresh images of the generator, in batches of training size."""
        batches = range(-(-n // self.batch_size))
        return torch.cat([engine.make(self.generator, engine.noise(self.batch_size, self.nz)) for _ in batches])[:n]

    def check(self, task: str) -> None:
        """Refuse settings that contradict each other."""
        check_head(self.size, self.head)
