"""HiDFD: hybrid data-free distillation. Tang et al., AAAI 2025, arXiv:2412.13525.

Page: ``docs/methods/hidfd.md``. Recipe: ``recipes/hidfd_cifar10_wrn16-2_wrn16-1.yaml``; 84.4 +- 0.0 % with four
discriminator steps and 20,000 steps (``benchmarks/cifar-cpu.md``). The paper's body could not be read: this follows the
one commit of the released code (b193758), a third party's summary of the paper where the code is silent, from which the
equation numbers are, and inference where both are. Defects of the released code are repaired by default.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

from dreamstill.data.collected import Select, ranked
from dreamstill.data.storage import rows
from dreamstill.engine import Engine, Terms
from dreamstill.errors import InputError
from dreamstill.losses.gan import (
    feature_distance,
    frequency_smoothing,
    frequency_weights,
    hinge_d,
    hinge_g,
    two_way_d,
    two_way_g,
)
from dreamstill.methods import Method, Phase
from dreamstill.methods.parts.class_images import ClassImages
from dreamstill.methods.parts.feature_student import AlignedStudent, Augmentation, Schedule
from dreamstill.networks.gan import ConditionalGenerator, Discriminator, follow
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.ranges import Batch, Below1, Count, Positive, Share, Small, Weight, Whole


@dataclass
class HiDFD(Method):
    """Collected images x with the teacher's labels y; made images x~ = G(z, c); T_f features, r the head of D.

    ``L_D = E max(0, 1 - d(x)) + E max(0, 1 + d(x~)) + w_class (CE(a(x), 2y) + CE(a(x~), 2c+1))
    + w_transfer (E|T_f(x) - r(x)| + E|T_f(x~) - r(x~)|) + w_blend (E|T_f(x) - r(x~)| + E|T_f(x~) - r(x)|)``
    ``L_G = -E d(x~) + w_class (CE(a(x~), 2c) - CE(a(x~), 2c+1)) + w_smooth sum_k w_k q_k log q_k``,
    ``q`` the batch mean of the teacher's prediction on x~, ``w_k`` large for classes that came rarely
    ``L_S = mean (p(S_map) - T_map)^2`` on N copies of the collected and the made images; the student answers through
    the teacher's own, frozen classifier.
    """

    paper: ClassVar[str] = "Tang et al., Hybrid Data-Free Knowledge Distillation, AAAI 2025, arXiv:2412.13525"
    needs: ClassVar[frozenset[str]] = frozenset({"collected", "linear_head", "input_gradient", "doublings"})
    outside: ClassVar[tuple[str, ...]] = ("a few collected unlabelled images",)
    kept_apart: ClassVar[dict[str, Any]] = {"released_pixels": False, "feature_gradient": True, "stretch": False}

    # the collected images
    keep: Count = 5_000
    """Most collected images used (released)."""
    select: Select = "confidence"
    """The surest for the teacher; ``flexible``: with a lower bar for rare classes (both inferred from functions left
    over in the released code); ``class``: the surest of each class in turn; ``random`` (both ours)."""
    min_confidence: Share = 0.0
    """Leave out images of which the teacher is less sure (inferred, left over too)."""

    # the GAN
    gan: Positive = 1.0
    """GAN iterations a student step (inferred, for small budgets; released: 20,000 to 375,000, that is 0.053)."""
    gan_iterations: Count | None = None
    """A fixed number of them in its place (released: 20,000)."""
    gan_batch: Annotated[Count, Batch(), Small(16)] = 100
    """Collected images, and made ones, a GAN step (released)."""
    discriminator_steps: Count = 1
    """Steps of the discriminator an iteration (released; ADC-GAN's own: 4)."""
    nz: Annotated[Count, Small(8)] = 128
    """Noise length (released)."""
    width: Annotated[Count, Small(4)] = 64
    """Base width of the GAN (released; it means 256 channels at 32x32)."""
    lr_gan: Weight = 2e-4
    """Learning rate of both Adams, betas 0 and 0.999 (released)."""
    w_class: Weight = 1.0
    """Weight of the two-way classifier's terms (released)."""
    w_transfer: Weight = 0.1
    """Weight of feature transfer (released script)."""
    w_blend: Weight = 0.1
    """Weight of feature blending (released script)."""
    w_smooth: Weight = 0.1
    """Weight of category frequency smoothing (released script)."""
    update_every: Whole = 10
    """GAN iterations between two updates of the class frequencies (inferred; released: 0, never: all weigh alike)."""
    frequency: Literal["inverse", "effective"] = "inverse"
    """Class weights: 1/N (Class Balancing GAN), or by effective numbers, which saturate (released; see the page)."""
    frequency_decay: Share = 0.5
    """What the frequencies keep at an update (released)."""

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
    """Copies of the collected images beside them (summary: 10); None: about as many as made ones; 0: made ones only."""

    # the student
    align: Literal["map", "pooled"] = "map"
    """Align last feature maps (released), where the networks have one, or what enters the classifiers (ours)."""
    batch_size: Annotated[Count, Batch(), Small(16)] = 64
    """Images a student step (released)."""
    lr_s: Weight = 0.05
    """Learning rate of SGD (released; 0.01 for mobile networks)."""
    momentum: Below1 = 0.9
    """Momentum of SGD (released)."""
    weight_decay: Weight = 5e-4
    """Weight decay of SGD (released)."""
    schedule: Schedule = "step"
    """Times 0.1 at 62.5, 75 and 87.5 % of the student's phase (released); ``cosine``; ``constant``."""
    w_kl: Weight = 0.0
    """Weight of KL on the logits (released; whether the paper has it could not be read)."""
    tau: Positive = 4.0
    """Its temperature (released, unused)."""
    augmentation: Augmentation = "crop"
    """Pad and shift (inferred: what teachers are trained with), or ``resized``: parts of 8 to 100 % (released)."""
    crop: Whole = 4
    """Pixels of the pad (inferred)."""
    flip: bool = False
    """Mirror at random (released: yes); not for digits and letters, hence off."""

    # defects of the released code; methods/released/hidfd.py has those of kept_apart
    released_pixels: bool = False
    """Show the teacher images in [-1, 1] without its own mean and std while the GAN learns (released: yes)."""
    feature_gradient: bool = True
    """Whether transfer and blending have a gradient (released: no, so that they change nothing)."""
    stretch: bool = False
    """Stretch each made image to the full range (released: yes, in its export)."""
    student_mean: list[float] | None = None
    """Mean by channel in place of the networks' own while the student learns (released: ImageNet-32's)."""
    student_std: list[float] | None = None
    """Std by channel, to be given with ``student_mean`` (released: ImageNet-32's)."""

    def setup(self, engine: Engine) -> None:
        """The student on its teacher's classifier, the collected images' ranks and labels, the GAN and its average."""
        teacher = engine.given.teacher
        self.learner = AlignedStudent(
            engine, maps=self.align == "map", lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay,
            schedule=self.schedule, w_kl=self.w_kl, tau=self.tau, augmentation=self.augmentation, crop=self.crop,
            flip=self.flip, mean=self.student_mean, std=self.student_std,
        )  # fmt: skip
        self.teacher, self.vector, self.gather = self.learner.teacher, self.learner.vector, engine.gather
        self.pixels = engine.collected()
        self.ranking = ranked(self.learner.answer, self.pixels, self.select, self.min_confidence, self.keep)
        chosen, labels, _ = self.ranking
        self._check_collected(labels, teacher.num_classes)
        self.chosen, self.labels = engine.buffer("chosen", chosen), engine.buffer("pseudo_labels", labels)
        self.copies = max(1, round(self.bank / len(chosen))) if self.inflation is None else self.inflation
        adam = partial(Adam, lr=self.lr_gan, betas=(0.0, 0.999), eps=1e-8)
        generator = ConditionalGenerator(teacher, self.nz, self.width)
        discriminator = Discriminator(teacher, self.learner.features, self.width)
        self.average, _ = engine.own("average", copy.deepcopy(generator))
        self.average.eval()
        self.generator, self.opt_g = engine.own("generator", generator, adam)
        self.discriminator, self.opt_d = engine.own("discriminator", discriminator, adam)
        source = self.average if self.sample_from == "ema" else self.generator
        self.images = ClassImages(source, self.gan_batch, self.nz)
        once = torch.ones(teacher.num_classes, dtype=engine.dtype)
        self.seen, self.often = engine.buffer("seen", 512 * once), engine.buffer("often", 50 * once)
        self.weights = engine.buffer("weights", once)
        self.made = engine.bank("made", max(self.bank, self.gan_batch))
        self.towards = 1 / max(self.ema * self.phases(engine.steps)[0].iterations, 1)

    def phases(self, steps: int) -> list[Phase]:
        """The GAN, the images it makes, the student."""
        gan = max(1, round(self.gan * steps)) if self.gan_iterations is None else self.gan_iterations
        making = Phase("synthesise", -(-self.bank // self.gan_batch), self.making_step)
        return [Phase("gan", gan, self.gan_step), making, Phase("distil", steps, self.step)]

    # ---------------------------------------------------------------- the GAN

    def gan_step(self, engine: Engine) -> None:
        """A class-conditional GAN learns from the few collected images, the teacher beside it."""
        # 1. The discriminator, on collected images (all in turn, or drawn where one iteration needs several batches).
        choose = engine.sweep if self.discriminator_steps == 1 else engine.integers
        for _ in range(self.discriminator_steps):
            index = choose(len(self.chosen), self.gan_batch)
            real, y = to_float(self.pixels[self.chosen[index]], engine.dtype), self.labels[index]
            z, c = self.images.draw(engine)
            fake = engine.make(self.generator, z, c)
            engine.minimise(self.loss_d, self.opt_d, inputs=(real, y, fake, c))
        # 2. The generator.
        predicted = engine.minimise(self.loss_g, self.opt_g, inputs=(*self.images.draw(engine), self.weights))
        # 3. Its average.
        weight = 1.0 if engine.progress < self.ema_start else self.towards
        follow(self.average.module, self.generator.module, weight)
        # 4. The class frequencies (eqs. 10 to 12).
        if predicted is not None and self.update_every > 0:
            self.update_frequencies(predicted, now=(engine.iteration + 1) % self.update_every == 0)

    def loss_d(self, real: Tensor, y: Tensor, fake: Tensor, c: Tensor) -> Terms:
        """``L_D``."""
        both = torch.cat([real, fake])
        d, a, r = self.discriminator(both)
        (d_real, d_fake), (a_real, a_fake) = d.chunk(2), a.chunk(2)
        # 1. Collected images from made ones.
        terms = {"hinge": hinge_d(d_real, d_fake)}
        # 2. Each class, of collected and of made images.
        if self.w_class > 0:
            terms["class"] = self.w_class * two_way_d(a_real, y, a_fake, c)
        # 3. Feature integration: the teacher's features keep it from learning the few images by heart.
        if self.w_transfer > 0 or self.w_blend > 0:
            with torch.no_grad():
                t = self.teacher(self.shown(both)).taps[self.vector]
            terms |= self.integration(r, t)
        return terms

    def integration(self, r: Tensor, t: Tensor) -> Terms:
        """The head's guess ``r`` and the teacher's features ``t``, both ``2b f``: collected images, then made ones."""
        (r_real, r_fake), (t_real, t_fake) = r.chunk(2), t.chunk(2)
        terms: Terms = {}
        if self.w_transfer > 0:  # of the same image (eq. 9)
            terms["transfer"] = self.w_transfer * (feature_distance(r_real, t_real) + feature_distance(r_fake, t_fake))
        if self.w_blend > 0:  # of the opposite image (eq. 8)
            terms["blend"] = self.w_blend * (feature_distance(r_fake, t_real) + feature_distance(r_real, t_fake))
        return terms

    def loss_g(self, z: Tensor, c: Tensor, weights: Tensor) -> tuple[Terms, Tensor | None]:
        """``L_G``; also the teacher's logits of the global batch, where it is asked."""
        fake = self.generator(z, c)
        d, a, _ = self.discriminator(fake)
        # 1. Taken for collected: -E d(x~), which is what hinge_g gives.
        terms = {"hinge": hinge_g(d)}
        # 2. Taken for a collected image of its class, and not for a made one: CE(a, 2c) - CE(a, 2c+1).
        if self.w_class > 0:
            terms["class"] = self.w_class * two_way_g(a, c)
        if self.w_smooth == 0:
            return terms, None
        # 3. Category frequency smoothing, + sum w q log q: classes that the teacher rarely sees (eqs. 10 to 12).
        logits = self.gather(self.teacher(self.shown(fake)).logits)
        terms["smooth"] = self.w_smooth * frequency_smoothing(logits, weights)
        return terms, logits

    def update_frequencies(self, logits: Tensor, now: bool) -> None:
        """Count what the teacher (``b k``) took the made images for; ``now``: weigh the classes anew."""
        self.seen += F.one_hot(logits.argmax(1), logits.shape[1]).sum(0)
        if now:
            self.often.lerp_(self.seen, 1 - self.frequency_decay).clamp_(min=1)
            self.seen.zero_()
            self.weights.copy_(frequency_weights(self.often, None if self.frequency == "inverse" else 0.99))

    def shown(self, images: Tensor) -> Tensor:
        """What the teacher is shown of images while the GAN learns: just these."""
        return images

    # ---------------------------------------------------------------- the images it makes

    def making_step(self, engine: Engine) -> None:
        """Keep a batch for the student."""
        self.made.add(engine.gather(self.preset(engine)[0]))

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """A batch of made images and the classes asked for, uniform; noise not truncated."""
        return self.images.finished(engine)

    # ---------------------------------------------------------------- the student

    def step(self, engine: Engine) -> None:
        """The student aligns its features on the next batch of the hybrid set (eq. 14)."""
        self.learner.learn(engine, self.hybrid(engine))

    def hybrid(self, engine: Engine) -> Tensor:
        """The next batch of ``copies`` times the collected and once the made images, all in turn (inflation, eq. 5)."""
        n, made = len(self.chosen), len(self.made)
        copies = self.copies if made else max(1, self.copies)
        index = engine.sweep(copies * n + made, self.batch_size)
        old = self.pixels[self.chosen[index % n]]
        if made == 0:
            return to_float(old, engine.dtype)
        new = rows(self.made.pixels, (index - copies * n).clamp_min(0))
        return to_float(torch.where((index < copies * n)[:, None, None, None], old, new), engine.dtype)

    def deliver(self) -> Network:
        """The student: its base, the projector and the teacher's classifier."""
        return self.learner.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Made images, fresh ones; never the collected."""
        made = [self.preset(engine)[0]]
        while len(made) * len(made[0]) < n:
            made.append(self.preset(engine)[0])
        return torch.cat(made)[:n]

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher: only smoothing sends a gradient through it."""
        return self.needs if self.w_smooth > 0 else self.needs - {"input_gradient"}

    def check(self, task: str) -> None:
        """Refuse a made set smaller than a batch."""
        if self.inflation == 0 and (made := max(self.bank, self.gan_batch)) < self.batch_size:
            raise InputError(
                f"inflation is 0, so the student learns from the {made} made images alone, and its batch_size is "
                f"{self.batch_size}: raise bank, or lower batch_size"
            )

    def _check_collected(self, labels: Tensor, k: int) -> None:
        n, batch = len(labels), max(self.gan_batch, self.batch_size)
        if n < max(k, batch):
            raise InputError(
                f"{n} of {len(self.pixels)} collected images are kept for {k} classes and for gan_batch and batch_size "
                f"of up to {batch}: collect more, raise keep, or lower min_confidence or the batches"
            )
        if absent := k - len(labels.unique()):
            warnings.warn(
                f"the teacher takes none of the {n} collected images for {absent} of its {k} classes: the GAN learns "
                "nothing of what these look like",
                stacklevel=3,
            )
