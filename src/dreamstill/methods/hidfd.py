"""HiDFD: hybrid data-free distillation. Tang et al., AAAI 2025, arXiv:2412.13525.

A GAN learns from a few collected look-alikes, with the teacher beside it, and the student from both. The paper's body
could not be read: what is here follows the one commit of the released code (b193758), a third party's summary of the
paper where the code is silent, and inference where both are. Where the released code does not do what the paper
describes, the described behaviour is the default and the released one a switch.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
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
from dreamstill.methods.parts.feature_student import AlignedStudent, Augmentation, Schedule
from dreamstill.networks.gan import ConditionalGenerator, Discriminator, follow
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float


@dataclass
class HiDFD(Method):
    """Collected images x with the teacher's labels y; made images x~ = G(z, c); T_f features, r the head of D.

    ``L_D = hinge + w_class (CE(a(x), 2y) + CE(a(x~), 2c+1))
    + w_transfer (E|T_f(x) - r(x)| + E|T_f(x~) - r(x~)|) + w_blend (E|T_f(x) - r(x~)| + E|T_f(x~) - r(x)|)``
    ``L_G = -E d(x~) + w_class (CE(a(x~), 2c) - CE(a(x~), 2c+1)) + w_smooth sum_k w_k q_k log q_k``,
    ``q`` the batch mean of the teacher's prediction on x~, ``w_k`` large for classes that came rarely
    ``L_S = mean (p(S_map) - T_map)^2`` on N copies of the collected and the made images; the student answers through
    the teacher's own, frozen classifier.

    Attributes:
        keep: most collected images used (released code: 5000).
        select: ``confidence``: those of which the teacher is surest (inferred: a left-over function of the released
            code); ``class``: the surest of each of its classes in turn;
            ``flexible``: by confidence, with ``min_confidence`` lowered for rare classes (released code: left over);
            ``random``.
        min_confidence: leave out images of which the teacher is less sure (0: none; another left-over rule).
        gan: GAN iterations a student step (inferred, for small budgets; released: 20,000 to 375,000, that is 0.053).
        gan_iterations: a fixed number of them in its place (released: 20,000).
        gan_batch: collected images, and made ones, a GAN step (released: 100).
        discriminator_steps: steps of the discriminator an iteration (released: 1; ADC-GAN's own: 4).
        nz: noise length (released: 128).
        width: base width of the GAN (released: 64, which is 256 channels at 32x32).
        lr_gan: Adam, both networks (released: 2e-4, betas 0 and 0.999).
        w_class: weight of the two-way classifier's terms (released: 1).
        w_transfer: weight of feature transfer (released script: 0.1); 0 leaves it out.
        w_blend: weight of feature blending (released script: 0.1); 0 leaves it out.
        feature_gradient: False is the released code: both terms are computed without gradient and change nothing.
        w_smooth: weight of category frequency smoothing (released script: 0.1); 0 leaves it out.
        update_every: GAN iterations between two updates of the class frequencies (inferred: 10); 0 is the released
            code: never, so that all classes weigh alike.
        frequency: ``inverse``: weights 1/N (Class Balancing GAN); ``effective``: by the effective number with beta
            0.99 (released), which tells no frequent classes apart.
        frequency_decay: what the frequencies keep at an update (released: 0.5).
        ema: share of the GAN's phase that the averaged generator reaches back over, so that any budget is averaged
            alike (inferred: 0.1; released: decay 0.9999 in 20,000 iterations, a share of 0.5); 0 is no average.
        ema_start: share of the GAN's phase in which the average is a copy (inferred from the released 1,000 of 20,000).
        sample_from: ``ema``: the averaged generator; ``raw``: the live one, as the released code does.
        released_pixels: show the teacher images in [-1, 1] without its own mean and std while the GAN learns, as the
            released code does.
        stretch: stretch each made image to the full range, as the released code's export does.
        bank: made images the student learns from (released: 50,000).
        inflation: copies of the collected images beside them; None makes both parts about equal (the best in the
            summary of the paper: 10 copies of 5,000 to 50,000 made); 1 is no inflation, 0 made images only.
        align: ``map``: last feature maps, as released, where the networks have one; ``pooled``: what enters the
            classifiers.
        batch_size: the student's (released: 64).
        lr_s: SGD (released: 0.05; 0.01 for mobile networks).
        momentum: of SGD (released: 0.9).
        weight_decay: of SGD (released: 5e-4).
        schedule: ``step``: times 0.1 at 62.5, 75 and 87.5 % of the student's phase (released); ``cosine``;
            ``constant``.
        w_kl: weight of KL on the logits (released: 0; whether the paper has it could not be read).
        tau: its temperature (released, unused: 4).
        augmentation: ``crop``: pad and shift (inferred: what teachers are trained with); ``resized``: random parts of
            8 to 100 % of the area, as the released code.
        crop: pixels of the pad.
        flip: mirror at random (released: yes); not for digits and letters, hence off.
        student_mean: per channel, in place of the networks' own mean while the student learns: the released code
            trains with one set of statistics and tests with another. With ``student_std``.
        student_std: likewise.
    """

    paper: ClassVar[str] = "Tang et al., Hybrid Data-Free Knowledge Distillation, AAAI 2025, arXiv:2412.13525"
    needs: ClassVar[frozenset[str]] = frozenset({"collected", "linear_head", "input_gradient", "doublings"})
    outside: ClassVar[tuple[str, ...]] = ("a few collected unlabelled images",)
    tasks: ClassVar[frozenset[str]] = frozenset({"classification"})

    keep: int = 5_000
    select: Select = "confidence"
    min_confidence: float = 0.0
    gan: float = 1.0
    gan_iterations: int | None = None
    gan_batch: int = 100
    discriminator_steps: int = 1
    nz: int = 128
    width: int = 64
    lr_gan: float = 2e-4
    w_class: float = 1.0
    w_transfer: float = 0.1
    w_blend: float = 0.1
    feature_gradient: bool = True
    w_smooth: float = 0.1
    update_every: int = 10
    frequency: Literal["inverse", "effective"] = "inverse"
    frequency_decay: float = 0.5
    ema: float = 0.1
    ema_start: float = 0.05
    sample_from: Literal["ema", "raw"] = "ema"
    released_pixels: bool = False
    stretch: bool = False
    bank: int = 50_000
    inflation: int | None = None
    align: Literal["map", "pooled"] = "map"
    batch_size: int = 64
    lr_s: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "step"
    w_kl: float = 0.0
    tau: float = 4.0
    augmentation: Augmentation = "crop"
    crop: int = 4
    flip: bool = False
    student_mean: list[float] | None = None
    student_std: list[float] | None = None

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher: only smoothing sends a gradient through it."""
        return self.needs if self.w_smooth > 0 else self.needs - {"input_gradient"}

    def setup(self, engine: Engine) -> None:
        """The student on its teacher's classifier, the collected images' ranks and labels, the GAN and its average."""
        given = engine.given
        self.learner = AlignedStudent(
            engine, maps=self.align == "map", lr=self.lr_s, momentum=self.momentum, weight_decay=self.weight_decay,
            schedule=self.schedule, w_kl=self.w_kl, tau=self.tau, augmentation=self.augmentation, crop=self.crop,
            flip=self.flip, mean=self.student_mean, std=self.student_std,
        )  # fmt: skip
        self.teacher, self.vector = self.learner.teacher, self.learner.vector
        self.mean, self.std = given.teacher.mean, given.teacher.std
        self.pixels = engine.collected()
        self.ranking = ranked(self.learner.answer, self.pixels, self.select, self.min_confidence, self.keep)
        chosen, labels, _ = self.ranking
        self._check(engine, labels)
        self.chosen, self.labels = engine.buffer("chosen", chosen), engine.buffer("pseudo_labels", labels)
        self.copies = max(1, round(self.bank / len(chosen))) if self.inflation is None else self.inflation
        adam = partial(Adam, lr=self.lr_gan, betas=(0.0, 0.999), eps=1e-8)
        generator = ConditionalGenerator(given.teacher, self.nz, self.width)
        discriminator = Discriminator(given.teacher, self._features(), self.width)
        self.average, _ = engine.own("average", copy.deepcopy(generator))
        self.generator, self.opt_g = engine.own("generator", generator, adam)
        self.discriminator, self.opt_d = engine.own("discriminator", discriminator, adam)
        self.average.eval()
        k = given.teacher.num_classes
        self.seen = engine.buffer("seen", torch.full((k,), 512.0, dtype=engine.dtype))
        self.often = engine.buffer("often", torch.full((k,), 50.0, dtype=engine.dtype))
        self.weights = engine.buffer("weights", torch.ones(k, dtype=engine.dtype))
        self.made = engine.bank("made", max(self.bank, self.gan_batch))
        self.towards = 1 / max(self.ema * self.phases(engine.steps)[0].iterations, 1)
        self.gather = engine.gather

    def phases(self, steps: int) -> list[Phase]:
        """The GAN, the images it makes, the student."""
        gan = max(1, round(self.gan * steps)) if self.gan_iterations is None else self.gan_iterations
        return [
            Phase("gan", gan, self.gan_step),
            Phase("synthesise", -(-self.bank // self.gan_batch), self.making_step),
            Phase("distil", steps, self.step),
        ]

    # ---------------------------------------------------------------- the GAN

    def gan_step(self, engine: Engine) -> None:
        """Discriminator, generator, its average, and now and then the class frequencies."""
        for _ in range(self.discriminator_steps):
            index = self.next_collected(engine)
            real, y = to_float(self.pixels[self.chosen[index]], engine.dtype), self.labels[index]
            z, c = engine.noise(self.gan_batch, self.nz), engine.labels(self.gan_batch)
            fake = engine.make(self.generator, z, c)
            engine.minimise(self.loss_d, self.opt_d, inputs=(real, y, fake, c))
        z, c = engine.noise(self.gan_batch, self.nz), engine.labels(self.gan_batch)
        predicted = engine.minimise(self.loss_g, self.opt_g, inputs=(z, c, self.weights))
        live = self.generator.module
        follow(self.average.module, live, 1.0 if engine.progress < self.ema_start else self.towards)
        self.count(engine, predicted)

    def loss_d(self, real: Tensor, y: Tensor, fake: Tensor, c: Tensor) -> Terms:
        """Discriminator: real from made, each class, and the teacher's features of the image and of the opposite."""
        n = len(real)
        both = torch.cat([real, fake])
        d, a, r = self.discriminator(both)
        terms = {"hinge": hinge_d(d[:n], d[n:])}
        if self.w_class > 0:
            terms["class"] = self.w_class * two_way_d(a[:n], y, a[n:], c)
        if self.w_transfer == 0 and self.w_blend == 0:
            return terms
        with torch.no_grad():
            t = self.teacher(self.shown(both)).taps[self.vector]
        r = r if self.feature_gradient else r.detach()
        if self.w_transfer > 0:
            terms["transfer"] = self.w_transfer * (feature_distance(r[:n], t[:n]) + feature_distance(r[n:], t[n:]))
        if self.w_blend > 0:
            terms["blend"] = self.w_blend * (feature_distance(r[n:], t[:n]) + feature_distance(r[:n], t[n:]))
        return terms

    def loss_g(self, z: Tensor, c: Tensor, weights: Tensor) -> tuple[Terms, Tensor | None]:
        """Generator: taken for real, for its class, and all classes as often to the teacher. Also its logits."""
        fake = self.generator(z, c)
        d, a, _ = self.discriminator(fake)
        terms = {"hinge": hinge_g(d)}
        if self.w_class > 0:
            terms["class"] = self.w_class * two_way_g(a, c)
        if self.w_smooth == 0:
            return terms, None
        logits = self.gather(self.teacher(self.shown(fake)).logits)
        terms["smooth"] = self.w_smooth * frequency_smoothing(logits, weights)
        return terms, logits

    def count(self, engine: Engine, logits: Tensor | None) -> None:
        """Add to the frequencies what the teacher took the made images for; weigh anew every so often."""
        if logits is None or self.update_every == 0:
            return
        classes = torch.arange(logits.shape[1], device=logits.device)
        self.seen += (logits.argmax(1)[:, None] == classes).sum(0)
        if (engine.iteration + 1) % self.update_every == 0:
            self.often.lerp_(self.seen, 1 - self.frequency_decay).clamp_(min=1)
            self.seen.zero_()
            self.weights.copy_(frequency_weights(self.often, None if self.frequency == "inverse" else 0.99))

    def shown(self, images: Tensor) -> Tensor:
        """What the teacher is shown in the GAN's phase: the images, or with ``released_pixels`` what that saw."""
        return (2 * images - 1) * self.std + self.mean if self.released_pixels else images

    def next_collected(self, engine: Engine) -> Tensor:
        """A batch's numbers in the kept list: all in turn with one discriminator step an iteration, else drawn."""
        if self.discriminator_steps == 1:
            return engine.sweep(len(self.chosen), self.gan_batch)
        return engine.integers(len(self.chosen), self.gan_batch)

    # ---------------------------------------------------------------- the images it makes

    def making_step(self, engine: Engine) -> None:
        """Keep a batch for the student."""
        self.made.add(engine.gather(self.fresh(engine)))

    def fresh(self, engine: Engine) -> Tensor:
        """A batch of made images, classes uniform, noise not truncated."""
        return self.preset(engine)[0]

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """The same, and the classes asked for."""
        generator = self.average if self.sample_from == "ema" else self.generator
        generator.eval()
        z, y = engine.noise(self.gan_batch, self.nz), engine.labels(self.gan_batch)
        images = engine.make(generator, z, y)
        self.generator.train()
        if self.stretch:
            low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
            images = (images - low) / (high - low).clamp_min(1e-5)
        return images, y

    # ---------------------------------------------------------------- the student

    def step(self, engine: Engine) -> None:
        """Learn from the next batch of the hybrid set."""
        self.learner.learn(engine, self.hybrid(engine))

    def hybrid(self, engine: Engine) -> Tensor:
        """The next batch of ``copies`` times the collected and once the made images, all in turn."""
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
        return torch.cat([self.fresh(engine) for _ in range(-(-n * engine.ranks // self.gan_batch))])[:n]

    # ---------------------------------------------------------------- what was given

    def _features(self) -> int:
        head = self.learner.network.module.head
        assert isinstance(head, torch.nn.Linear)
        return head.in_features

    def _check(self, engine: Engine, labels: Tensor) -> None:
        n, k = len(labels), engine.given.teacher.num_classes
        if n < k:
            raise InputError(
                f"{n} of {len(self.pixels)} collected images are kept for {k} classes: collect more, or raise keep or "
                "lower min_confidence"
            )
        if n < max(self.gan_batch, self.batch_size) or self.gan_batch < 1 or self.discriminator_steps < 1:
            raise InputError(
                f"{n} of {len(self.pixels)} collected images are kept, and a step takes gan_batch {self.gan_batch} and "
                f"batch_size {self.batch_size} of them: give at least one, and collected images for a whole batch"
            )
        if self.inflation == 0 and max(self.bank, self.gan_batch) < self.batch_size:
            raise InputError(
                f"inflation is 0, so the student learns from the {max(self.bank, self.gan_batch)} made images alone, "
                f"and its batch_size is {self.batch_size}: raise bank, or lower batch_size"
            )
        absent = k - len(labels.unique())
        if absent:
            warnings.warn(
                f"the teacher takes none of the {n} collected images for {absent} of its {k} classes: the GAN learns "
                "nothing of what these look like",
                stacklevel=2,
            )
        if not (0 <= self.ema <= 1 and 0 <= self.frequency_decay <= 1):
            raise InputError(f"ema is {self.ema} and frequency_decay {self.frequency_decay}: both must be in [0, 1]")
