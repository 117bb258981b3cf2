"""HiDFD: hybrid data-free distillation. Tang et al., AAAI 2025, arXiv:2412.13525.

Recipe: recipes/hidfd_cifar10_wrn16-2_wrn16-1.yaml, 84.4 +- 0.0 % (benchmarks/cifar-cpu.md). The paper's body could not
be read. This follows the released code (b193758), else a third party's summary, whose equation numbers these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Adam

from dreamstill.data.collected import Select, ranked
from dreamstill.engine import Engine, Terms
from dreamstill.losses import gan as losses
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.average import Average
from dreamstill.methods.parts.class_frequencies import ClassFrequencies
from dreamstill.methods.parts.class_images import ClassImages
from dreamstill.methods.parts.feature_student import AlignedStudent, Augmentation, Schedule
from dreamstill.methods.parts.hybrid_set import HybridSet
from dreamstill.methods.parts.replay import answered
from dreamstill.networks.gan import ConditionalGenerator, Discriminator
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Below1, Count, Positive, Share, Small, Weight, Whole


@dataclass
class HiDFD(Method):
    """Collected images x with the teacher's labels y; made images x~ = G(z, c); T_f features, r the head of D.

    ``L_D = E max(0, 1 - d(x)) + E max(0, 1 + d(x~)) + w_class (CE(a(x), 2y) + CE(a(x~), 2c+1))
    + w_transfer (E|T_f(x) - r(x)| + E|T_f(x~) - r(x~)|) + w_blend (E|T_f(x) - r(x~)| + E|T_f(x~) - r(x)|)``
    ``L_G = -E d(x~) + w_class (CE(a(x~), 2c) - CE(a(x~), 2c+1)) + w_smooth sum_k w_k q_k log q_k``, q the mean of T(x~)
    ``L_S = mean (p(S_map) - T_map)^2``, on N copies of the collected and the made images
    """

    paper: ClassVar[str] = "Tang et al., Hybrid Data-Free Knowledge Distillation, AAAI 2025, arXiv:2412.13525"
    needs: ClassVar[frozenset[str]] = frozenset({"collected", "linear_head", "input_gradient", "doublings"})
    outside: ClassVar[tuple[str, ...]] = ("a few collected unlabelled images",)
    kept_apart: ClassVar[dict[str, Any]] = {"released_pixels": False, "feature_gradient": True, "stretch": False}

    keep: Count = 5_000
    """Most collected images used (released)."""
    select: Select = "confidence"
    """The surest; ``flexible``: a lower bar for rare classes (inferred); ``class``: each in turn; ``random`` (ours)."""
    min_confidence: Share = 0.0
    """Leave out images of which the teacher is less sure (inferred from functions left over in the release)."""
    # the GAN
    gan: Positive = 1.0
    """GAN iterations a student step (inferred, for small budgets; released: 20,000 to 375,000, that is 0.053)."""
    gan_iterations: Count | None = None
    """A fixed number of them instead (released: 20,000)."""
    gan_batch: Annotated[Count, Batch(), Small(16)] = 100
    """Collected images, and made ones, a GAN step (released)."""
    discriminator_steps: Count = 1
    """Steps of the discriminator an iteration (released; ADC-GAN's own: 4)."""
    nz: Annotated[Count, Small(8)] = 128
    """Length of the noise (released)."""
    width: Annotated[Count, Small(4)] = 64
    """Base width of the GAN; 64 means 256 channels at 32x32 (released)."""
    lr_gan: Weight = 2e-4
    """Learning rate of both Adams, betas 0 and 0.999 (released)."""
    w_class: Weight = 1.0
    """Weight of the two-way classifier's terms (released)."""
    w_transfer: Weight = 0.1
    """Weight of feature transfer (released script; the paper's own number is not known)."""
    w_blend: Weight = 0.1
    """Weight of feature blending (released script, one weight for both)."""
    w_smooth: Weight = 0.1
    """Weight of category frequency smoothing (released script)."""
    update_every: Whole = 10
    """GAN iterations between two updates of the class frequencies (inferred; released: 0, never: equal weights)."""
    frequency: Literal["inverse", "effective"] = "inverse"
    """Class weights by 1/N (inferred), or by effective numbers, which saturate (released)."""
    frequency_decay: Share = 0.5
    """What the frequencies keep at an update (released script)."""
    # the images it makes
    ema: Share = 0.1
    """Share of the GAN's phase over which the generator is averaged (inferred; released: 0.5); 0: no average."""
    ema_start: Share = 0.05
    """Share of the GAN's phase in which the average is a copy (inferred from the released 1,000 of 20,000)."""
    sample_from: Literal["ema", "raw"] = "ema"
    """What makes the images: the averaged generator (inferred) or the live one (released)."""
    bank: Annotated[Count, Small(64)] = 50_000
    """Made images the student learns from (released)."""
    inflation: Whole | None = None
    """Copies N of the collected images (summary: 10); without it about as many images as made ones; 0: none."""
    # the student
    align: Literal["map", "pooled"] = "map"
    """Align last feature maps where the networks have one (released), or what enters the classifiers (ours)."""
    batch_size: Annotated[Count, Batch(), Small(16)] = 64
    """Images a student step (released)."""
    lr_s: Weight = 0.05
    """Learning rate of SGD (released; 0.01 for mobile networks)."""
    momentum: Below1 = 0.9
    """Momentum of SGD (released)."""
    weight_decay: Weight = 5e-4
    """Weight decay of SGD (released)."""
    schedule: Schedule = "step"
    """``step``: times 0.1 at 62.5, 75 and 87.5 % of the student's phase (released: epochs 150, 180, 210 of 240)."""
    w_kl: Weight = 0.0
    """Weight of KL on the logits (released; whether the paper has it could not be read)."""
    tau: Positive = 4.0
    """Its temperature (released, unused)."""
    augmentation: Augmentation = "crop"
    """Pad and shift (inferred: what teachers are trained with), or ``resized``: parts of 8 to 100 % (released)."""
    crop: Whole = 4
    """Pixels of the pad (inferred)."""
    flip: bool = False
    """Mirror at random; not for digits and letters (inferred: off; released: on)."""
    # defects of the released code; methods/released/hidfd.py has the first three
    released_pixels: bool = False
    """Show the teacher images in [-1, 1] without its own mean and std while the GAN learns (released: yes)."""
    feature_gradient: bool = True
    """Whether transfer and blending have a gradient (released: no, so that they change nothing)."""
    stretch: bool = False
    """Stretch each made image to the full range (released: yes, in its export)."""
    student_mean: list[float] | None = None
    """Mean by channel in place of the networks' own while the student learns (released: ImageNet-32's)."""
    student_std: list[float] | None = None
    """Std by channel, given with ``student_mean`` (released: ImageNet-32's)."""

    def setup(self, engine: Engine) -> None:
        """The student on its teacher's classifier, the collected images, the GAN and its average."""
        self.learner = AlignedStudent(
            engine, maps=self.align == "map", lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay,
            schedule=self.schedule, w_kl=self.w_kl, tau=self.tau, augmentation=self.augmentation, crop=self.crop,
            flip=self.flip, mean=self.student_mean, std=self.student_std,
        )  # fmt: skip
        self.teacher, self.vector, self.gather = self.learner.teacher, self.learner.vector, engine.gather
        pixels, adam = engine.collected(), partial(Adam, lr=self.lr_gan, betas=(0.0, 0.999), eps=1e-8)
        self.ranking = kept = ranked(self.learner.answer, pixels, self.select, self.min_confidence, self.keep)
        self.hybrid = HybridSet(engine, pixels, kept, self.bank, self.inflation, (self.gan_batch, self.batch_size))
        generator = ConditionalGenerator(engine.given.teacher, self.nz, self.width)
        self.average = Average(engine, generator, self.ema * self.phases(engine.steps)[0].iterations, self.ema_start)
        self.generator, self.opt_g = engine.own("generator", generator, adam)
        discriminator = Discriminator(engine.given.teacher, self.learner.features, self.width)
        self.discriminator, self.opt_d = engine.own("discriminator", discriminator, adam)
        source = self.average.network if self.sample_from == "ema" else self.generator
        self.images = ClassImages(source, self.gan_batch, self.nz)
        self.frequencies = ClassFrequencies(engine, self.update_every, self.frequency_decay, self.frequency)

    def phases(self, steps: int) -> list[Phase]:
        """The GAN, the images it makes, the student."""
        gan = max(1, round(self.gan * steps)) if self.gan_iterations is None else self.gan_iterations
        making = Phase("synthesise", -(-self.bank // self.gan_batch), self.making_step)
        return [Phase("gan", gan, self.gan_step), making, Phase("distil", steps, self.step)]

    def gan_step(self, engine: Engine) -> None:
        """A class-conditional GAN learns from the few collected images, the teacher beside it."""
        # 1. Discriminator: collected images x, drawn where an iteration needs several batches, and made ones x~.
        for _ in range(self.discriminator_steps):
            x, y = self.hybrid.collected(engine, self.gan_batch, in_turn=self.discriminator_steps == 1)
            z, c = self.images.draw(engine)
            engine.minimise(self.loss_d, self.opt_d, inputs=(x, y, engine.make(self.generator, z, c), c))
        # 2. Generator, with the class weights of the frequencies so far, and its average.
        z, c = self.images.draw(engine)
        predicted = engine.minimise(self.loss_g, self.opt_g, inputs=(z, c, self.frequencies.weights))
        self.average.follow(engine, self.generator)
        # 3. The class frequencies (eqs. 10 to 12).
        self.frequencies.update(engine, predicted)

    def loss_d(self, x: Tensor, y: Tensor, fake: Tensor, c: Tensor) -> Terms:
        """``L_D`` of collected images of the teacher's classes y, and of images made for the classes c."""
        both = torch.cat([x, fake])
        d, a, r = self.discriminator(both)
        (d_real, d_fake), (a_real, a_fake) = d.chunk(2), a.chunk(2)
        terms = {"hinge": losses.hinge_d(d_real, d_fake)}
        if self.w_class > 0:  # each class, of collected and of made images
            terms["class"] = self.w_class * losses.two_way_d(a_real, y, a_fake, c)
        if self.w_transfer > 0 or self.w_blend > 0:  # the teacher's features keep it from learning the few by heart
            t = answered(self.teacher, both, None).taps[self.vector]
        if self.w_transfer > 0:  # of the same image (eq. 9)
            terms["transfer"] = self.w_transfer * losses.feature_transfer(r, t)
        if self.w_blend > 0:  # of the opposite image (eq. 8)
            terms["blend"] = self.w_blend * losses.feature_blend(r, t)
        return terms

    def loss_g(self, z: Tensor, c: Tensor, weights: Tensor) -> tuple[Terms, Tensor | None]:
        """``L_G``, and the teacher's logits of the global batch where it is asked."""
        fake = self.generator(z, c)
        d, a, _ = self.discriminator(fake)
        terms = {"hinge": losses.hinge_g(d)}  # -E d(x~)
        if self.w_class > 0:  # CE(a, 2c) - CE(a, 2c+1): taken for a collected image of its class, not for a made one
            terms["class"] = self.w_class * losses.two_way_g(a, c)
        if self.w_smooth == 0:
            return terms, None
        logits = self.gather(self.teacher(fake).logits)
        terms["smooth"] = self.w_smooth * losses.frequency_smoothing(logits, weights)  # + sum w q log q (eqs. 10 to 12)
        return terms, logits

    def making_step(self, engine: Engine) -> None:
        """Keep a batch of made images for the student."""
        self.hybrid.made.add(engine.gather(self.preset(engine)[0]))

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """A batch of made images and the classes asked for, uniform; noise not truncated."""
        return self.images.finished(engine)

    def step(self, engine: Engine) -> None:
        """The student aligns its features (eq. 14) on N copies of the collected and the made images (eq. 5)."""
        self.learner.learn(engine, self.hybrid.batch(engine, self.batch_size))

    def deliver(self) -> Network:
        """The student: its base, the projector and the teacher's classifier."""
        return self.learner.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Made images, fresh ones; never the collected."""
        return torch.cat([self.preset(engine)[0] for _ in range(-(-n * engine.ranks // self.gan_batch))])[:n]

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher: only smoothing sends a gradient through it."""
        return self.needs if self.w_smooth > 0 else self.needs - {"input_gradient"}
