"""Soft targeted transfer set synthesis. Wang, "Data-Free Knowledge Distillation with Soft Targeted Transfer Set
Synthesis", AAAI 2021.

The paper's body could not be read; a summary of it gave the structure, sigma and lambda_a. ``second-hand`` below means
from that summary. There is no code of the author for it; ``ZSKD code`` is the released code of its predecessor (Nayak
et al., arXiv:1905.08114), ``port`` somebody's re-implementation, whose deviations are switches here, off by default.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from dreamstill.data.augment import crop_flip, roll_flip, warp
from dreamstill.data.bank import ImageBank
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.errors import InputError
from dreamstill.losses.distillation import kl
from dreamstill.losses.image import distance_from_mean, total_variation
from dreamstill.losses.soft_targets import activation, entropy, target_kl
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts import soft_targets
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float, to_uint8


class Pixels(nn.Module):
    """The images of one batch, as what is optimised."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        """``n c h w``."""
        return self.images

    @torch.no_grad()
    def settle(self, how: str) -> None:
        """Bring them back to [0, 1] after a step: each value by itself, or the whole batch by its extremes."""
        if how == "clamp":
            self.images.clamp_(0, 1)
        elif how == "rescale":
            low, high = self.images.aminmax()
            self.images.sub_(low).div_(high - low)


@dataclass
class SoftTarget(Method):
    """``L_x = KL(y || p(T(x))) - lambda_a mean |f(x)|``, then ``L_S = tau^2 KL(p(T(x)) || p(S(x)))``.

    ``y = p(g(a))``, ``a ~ N(mu, sigma R)``, ``p(t) = softmax(t / tau)``. ``R_ij``: cosine of the incoming weights of
    units i and j of a layer; g: what of the teacher comes after that layer; f: features.

    Attributes:
        sigma: scale of the covariance (second-hand: best 1.5 on MNIST, 2.0 on CIFAR-10, alike from 0.5 to 3).
        sigma_is: ``variance``: the covariance is ``sigma R`` (second-hand); ``deviation``: it is ``sigma^2 R``.
        mu: mean of every unit (port: 0; the published value could not be read).
        bias: add the layer's own bias to the mean (inferred: off).
        space: what is modelled: ``layer`` (the paper's), ``softmax`` (the same normal on the logits, the paper's
            comparison), ``dirichlet`` (ZSKD), ``onehot`` (the classes in turn, a control).
        layer: dotted name of the modelled layer; without it the last hidden linear one (the paper's FC-2), or in a
            network without one the last convolution, its filters pooled (inferred).
        correlate: ``units``; ``inputs`` is the port's other axis, by default of the classifier: what enters is drawn.
        entry: how a draw enters the layers after: ``raw``, ``rectified``, ``truncated`` (its size), or ``through`` the
            modelled layer's own activation and norms; ``auto``: raw, for pooled filters rectified (inferred).
        centre: subtract each logit's mean over the draws, or a few classes win where draws are not signed; ``auto``:
            for all entries but raw (inferred).
        tau: temperature of targets, synthesis and distillation (ZSKD code: 20; the published value could not be read).
        tau_s: another temperature for the distillation; without it tau.
        lambda_a: weight of the activation term (second-hand: 0.05 LeNet-5, 0.1 AlexNet).
        activation: the tap whose features it reads; without it what enters the modelled linear layer, or the
            classifier (inferred from DAFL).
        reduction: over an image's features: ``mean`` (port) or ``sum``; the paper's could not be read.
        tau_squared: what is multiplied by tau^2: only the ``distance``; ``both`` terms; ``none``. The paper's could not
            be read; at tau 20 the activation term of the other two drowns the targets (tested here).
        exchanged: the divergence's arguments exchanged (port's deviation).
        redraw_targets: new targets in every iteration (port's deviation: an image can then learn only their mean).
        jitter: roll by up to an eighth and, if ``flip`` is on, mirror while optimising (port).
        w_tv: weight of the total variation, off: not part of the method.
        w_norm: weight of the pixels' squared distance from the teacher's mean, off: not part of the method.
        n_images: size of the transfer set, rounded up to whole batches (inferred, a small budget; ZSKD: 24,000 for
            MNIST, 40,000 for CIFAR-10).
        synthesis_batch: images optimised together (ZSKD code: 100; inferred: they are independent, so 256).
        iterations: Adam steps a batch (inferred, a small budget; ZSKD code: 1,500).
        lr_x: Adam on the pixels, in [0, 1] units, halved at 60 % and 80 % (inferred: in a few hundred iterations it
            comes nearer than 0.01; ZSKD code: 1e-3).
        init: the images' start: ``uniform`` in [0, 1] (ZSKD code); ``normal``, around the teacher's mean (port); or
            ``mean``, close around it (inferred: what the optimisation does not touch of white noise stays in the image,
            and the student has to learn to look past it).
        pixels: after a step ``clamp`` to [0, 1]; ``rescale`` the whole batch by its extremes (ZSKD code); or ``free``.
        batch_size: images a student step (inferred: 256).
        student_optimiser: ``adam`` (the author's later code, ZSKD code), or ``sgd`` with momentum 0.9 and weight decay
            5e-4 (inferred; with much moved images measured better, at lr_s 0.05).
        lr_s: of the student, along a cosine (the author's later code: 5e-3, on LeNet 1e-3; ZSKD code: 1e-3).
        crop: pad-and-crop shift in pixels of the student's images (inferred: 4, for 32x32).
        flip: mirror them at random; the teacher says anew what it sees.
        warp: turn, stretch and shear them; 1: by up to 15 degrees, 15 % and 0.2 (ranges: inferred; ZSKD code
            turns and scales too; off, as the paper could not be read).
        noise: standard deviation of the noise on them, in [0, 1] units (inferred: 0.1). Without crop, flip, warp and
            noise the stored logits are learnt from.
    """

    paper: ClassVar[str] = "Wang, Data-Free Knowledge Distillation with Soft Targeted Transfer Set Synthesis, AAAI 2021"
    needs: ClassVar[frozenset[str]] = frozenset({"input_gradient", "linear_head"})
    outside: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[frozenset[str]] = frozenset({"classification"})
    shows: ClassVar[Shows] = "stored"

    sigma: float = 2.0
    sigma_is: Literal["variance", "deviation"] = "variance"
    mu: float = 0.0
    bias: bool = False
    space: Literal["layer", "softmax", "dirichlet", "onehot"] = "layer"
    layer: str | None = None
    correlate: Literal["units", "inputs"] = "units"
    entry: Literal["auto", "raw", "rectified", "truncated", "through"] = "auto"
    centre: Literal["auto", "on", "off"] = "auto"
    tau: float = 20.0
    tau_s: float | None = None
    lambda_a: float = 0.05
    activation: str | None = None
    reduction: Literal["mean", "sum"] = "mean"
    tau_squared: Literal["both", "none", "distance"] = "distance"
    exchanged: bool = False
    redraw_targets: bool = False
    jitter: bool = False
    w_tv: float = 0.0
    w_norm: float = 0.0
    n_images: int = 4096
    synthesis_batch: int = 256
    iterations: int = 500
    lr_x: float = 0.03
    init: Literal["uniform", "normal", "mean"] = "uniform"
    pixels: Literal["clamp", "rescale", "free"] = "clamp"
    batch_size: int = 256
    student_optimiser: Literal["adam", "sgd"] = "adam"
    lr_s: float = 5e-3
    crop: int = 4
    flip: bool = True
    warp: float = 0.0
    noise: float = 0.1

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher: nothing of its classifier where neither targets nor features do."""
        features = self.lambda_a > 0 and self.activation is None
        return self.needs - {"linear_head"} if self.space == "onehot" and not features else self.needs

    @property
    def batches(self) -> int:
        """How many batches the transfer set is made in."""
        return -(-self.n_images // self.synthesis_batch)

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the distribution of the targets, the pixels, the set they are kept in, the student."""
        network, n = engine.given.teacher, self.synthesis_batch
        self.k, self.shape, self.whole = network.num_classes, (network.channels, *network.image_size), engine.mine
        self.tap = (self.activation or soft_targets.features(network)) if self.lambda_a > 0 else None
        self.teacher = engine.frozen(network, taps=[self.tap] if self.tap else [])
        self.canvas, self.level = Pixels(n, *self.shape), network.mean
        self.made, self.opt_x = engine.own("images", self.canvas, partial(Adam, lr=self.lr_x), self.decay)
        self.wanted = engine.buffer("targets", torch.zeros(n, self.k, dtype=engine.dtype))
        self.stored = engine.bank("transfer", self.batches * n, logits=True)
        self.sums = engine.buffer("sums", torch.zeros(4, dtype=engine.dtype))  # of each batch's means
        self.counts = engine.buffer("counts", torch.zeros(self.k, dtype=torch.int64))
        self.network = engine.given.student
        sgd = partial(SGD, lr=self.lr_s, momentum=0.9, weight_decay=5e-4)
        make_opt = sgd if self.student_optimiser == "sgd" else partial(Adam, lr=self.lr_s)
        self.student, self.opt_s = engine.own("student", self.network, make_opt, cosine)
        self.model(engine, network)
        self.look(engine)

    def phases(self, steps: int) -> list[Phase]:
        """The images, batch after batch; then one student step an iteration."""
        synthesis = Phase("synthesise", self.batches * self.iterations, self.synthesis_step)
        return [synthesis, Phase("distil", steps, self.step)]

    # ---------------------------------------------------------------- 1. soft targets

    def model(self, engine: Engine, network: Network) -> None:
        """Read the distribution off the teacher's weights: unit rows, so that ``rows @ noise`` is N(0, R)."""
        self.signed = True
        if self.space == "onehot":
            return
        head = soft_targets.classifier(network)
        weight: Tensor = soft_targets.linear(network, head).weight
        if self.space == "dirichlet":
            self.similar = soft_targets.concentrations(weight)
            return
        offset = weight.new_zeros(())
        if self.space == "layer" and self.correlate == "inputs":
            name = self.layer or head
            weight = soft_targets.linear(network, name).weight.T
            self.rest = engine.rest(network, f"{name}:input")
        elif self.space == "layer":
            found = soft_targets.modelled_layer(network, self.layer)
            weight = found.module.weight
            self.rest = engine.rest(network, found.name if self.entry == "through" else f"{found.next}:input")
            if found.pooled and self.entry == "through":
                raise InputError(
                    f"entry is through, and {found.name} is a convolution, whose filters are drawn as their averages "
                    "over the map: take entry rectified, truncated or raw, or name a linear layer"
                )
            self.signed = not found.pooled
            if self.bias and found.module.bias is not None:
                offset = found.module.bias.detach()
        self.rows, self.mean = soft_targets.unit_rows(weight), self.mu + offset
        self.scale = self.sigma if self.sigma_is == "deviation" else math.sqrt(self.sigma)

    @torch.no_grad()
    def draw(self, engine: Engine, n: int, first: int = 0) -> Tensor:
        """``n`` soft targets (``n k``, probabilities) after ``first`` others, the same on all ranks."""
        if self.space == "onehot":
            index = torch.arange(first, first + n, device=self.wanted.device)
            return F.one_hot(index % self.k, self.k).to(self.wanted.dtype)
        with engine.alike():
            if self.space == "dirichlet":
                return soft_targets.dirichlet_targets(self.similar, n, first)[0]
            noise = self.rows.new_empty(n, self.rows.shape[1]).normal_()
        a = self.mean + self.scale * noise @ self.rows.T
        entry = self.entry if self.entry != "auto" else "raw" if self.signed else "rectified"
        if self.space == "layer":
            zeta = self.rest(a.relu() if entry == "rectified" else a.abs() if entry == "truncated" else a)
        else:
            zeta, entry = a, "raw"
        if self.centre == "on" or (self.centre == "auto" and entry != "raw"):
            zeta = zeta - zeta.mean(0)
        return F.softmax(zeta / self.tau, dim=1)

    def look(self, engine: Engine) -> None:
        """Warn of targets that say nothing, or that are nearly all of a few classes: no image can mend that."""
        n = min(max(100 * self.k, 1000), 10_000)
        starts = range(0, n, self.synthesis_batch)
        drawn = torch.cat([self.draw(engine, self.synthesis_batch, start) for start in starts])
        share, most, nats = soft_targets.shares(drawn), math.log(self.k), float(entropy(drawn))
        if nats > 0.98 * most:
            warnings.warn(
                f"the soft targets' mean entropy is {nats:.3f} of at most {most:.3f} nats, so they hardly differ: "
                f"raise sigma ({self.sigma}) or lower tau ({self.tau})",
                stacklevel=2,
            )
        if float(share.min()) < 0.3 / self.k or float(share.max()) > 2.5 / self.k:
            warnings.warn(
                f"the soft targets' classes are drawn unevenly, from {float(share.min()):.1%} to "
                f"{float(share.max()):.1%} where {1 / self.k:.1%} would be even: set centre on, or another entry",
                stacklevel=2,
            )

    # ---------------------------------------------------------------- 2. images

    def synthesis_step(self, engine: Engine) -> None:
        """Algorithm: draw targets and noise images, bring the images to the targets, keep them with their logits."""
        before, at = divmod(engine.iteration, self.iterations)
        first = before * self.synthesis_batch
        if at == 0:
            self.start(engine, first)
        elif self.redraw_targets:
            self.wanted.copy_(self.draw(engine, self.synthesis_batch, first))
        moved = self.jitters(engine) if self.jitter else ()
        engine.minimise(self.loss_x, self.opt_x, inputs=(engine.mine(self.wanted), *moved))
        self.canvas.settle(self.pixels)
        if at == self.iterations - 1:
            self.keep(engine)

    def start(self, engine: Engine, first: int) -> None:
        """A new batch after ``first`` images: noise images, an optimiser without memory, targets that stay."""
        network, z = engine.given.teacher, engine.gather(engine.noise(self.synthesis_batch, *self.shape))
        with torch.no_grad():  # the normal distribution's own function makes normal noise uniform
            spread = 0.05 if self.init == "mean" else network.std
            images = torch.special.ndtr(z) if self.init == "uniform" else z * spread + network.mean
            self.canvas.images.copy_(images.clamp(0, 1) if self.init == "mean" else images)
        engine.restart(self.opt_x)
        self.wanted.copy_(self.draw(engine, self.synthesis_batch, first))
        share = soft_targets.shares(self.wanted)
        seen = {"entropy": entropy(self.wanted), "largest_class": share.max(), "smallest_class": share.min()}
        engine.observe("targets", seen)

    def loss_x(self, y: Tensor, shift: Tensor | None = None, flip: Tensor | None = None) -> Terms:
        """Images: the teacher says the targets of them, with strong features."""
        images = self.whole(self.made())
        if shift is not None and flip is not None:
            images = roll_flip(images, shift, flip)
        seen = self.teacher(images)
        square = self.tau**2
        terms = {"distance": target_kl(seen.logits, y, self.tau, self.exchanged)}
        if self.tau_squared != "none":
            terms["distance"] = square * terms["distance"]
        if self.tap:
            weight = self.lambda_a * (square if self.tau_squared == "both" else 1.0)
            terms["activation"] = weight * activation(seen.taps[self.tap], self.reduction)
        if self.w_tv > 0:
            terms["tv"] = self.w_tv * total_variation(images)
        if self.w_norm > 0:
            terms["norm"] = self.w_norm * distance_from_mean(images, self.level)
        return terms

    def jitters(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """How far each image is rolled, up to an eighth of its sides, and whether it is mirrored, if ``flip`` is on."""
        n, reach = self.synthesis_batch, max(1, min(self.shape[1:]) // 8)
        coins = engine.coins(n)
        return engine.integers(2 * reach + 1, n, 2) - reach, coins if self.flip else torch.zeros_like(coins)

    @torch.no_grad()
    def keep(self, engine: Engine) -> None:
        """Store the batch as it will be read back, with what the teacher says of just that."""
        images = to_float(to_uint8(self.canvas.images), engine.dtype)
        logits, y = self.teacher(engine.mine(images)).logits, engine.mine(self.wanted)
        seen = {
            "agreement": (logits.argmax(1) == y.argmax(1)).to(logits.dtype).mean(),
            "confidence": F.softmax(logits, dim=1).amax(1).mean(),
            "gap": target_kl(logits, y, self.tau),
        }
        engine.observe("images", seen)
        self.stored.add(images, logits=engine.gather(logits))
        self.sums += torch.stack([entropy(self.wanted), *(engine.average(v) for v in seen.values())])
        self.counts += torch.bincount(self.wanted.argmax(1), minlength=self.k)

    # ---------------------------------------------------------------- 3. student

    def step(self, engine: Engine) -> None:
        """Imitate the teacher on the set: on moved and noisy images by asking it anew, else by its stored logits."""
        kept = self.stored.draw(engine.integers(self.stored.capacity, self.batch_size), engine.dtype)
        if not (self.crop or self.flip or self.warp or self.noise):
            return engine.minimise(self.loss_s, self.opt_s, inputs=(kept.images, kept.logits))
        shift = engine.integers(2 * self.crop + 1, self.batch_size, 2)
        images = crop_flip(kept.images, shift, engine.coins(self.batch_size) if self.flip else None, self.crop)
        if self.warp:
            images = warp(images, engine.uniform(self.batch_size, 4), self.warp)
        if self.noise > 0:
            images = images + self.noise * engine.noise(self.batch_size, *self.shape, images=False)
        engine.minimise(self.loss_s, self.opt_s, inputs=(images.clamp(0, 1),))

    def loss_s(self, images: Tensor, t: Tensor | None = None) -> Terms:
        """Student: agree with the teacher, whose logits may be known."""
        if t is None:
            with torch.no_grad():
                t = self.teacher(images).logits
        return {"kl": kl(self.student(images), t, self.tau if self.tau_s is None else self.tau_s)}

    def decay(self, progress: float) -> float:
        """The pixels' learning rate, halved at 60 % and 80 % of each batch; ``progress`` is the whole phase's."""
        at = round(progress * self.batches * self.iterations) % self.iterations
        return 0.5 ** sum(at >= m * self.iterations for m in (0.6, 0.8))

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def transfer_set(self) -> ImageBank:
        """The images made so far, with the teacher's logits."""
        return self.stored

    def facts(self) -> dict[str, Any]:
        """The whole transfer set: its targets' entropy and classes, and how near the images came to them."""
        made = max(len(self.stored) // self.synthesis_batch, 1)
        nats, agreement, confidence, gap = (self.sums / made).tolist()
        return {
            "transfer_set": {
                "images": len(self.stored),
                "target_entropy": nats,
                "target_entropy_at_most": math.log(self.k),
                "target_classes": self.counts.tolist(),
                "agreement": agreement,
                "confidence": confidence,
                "gap": gap,
            }
        }

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """A draw from the transfer set."""
        if len(self.stored) == 0:
            raise InputError(
                f"no batch of the transfer set is finished, which takes {self.iterations} iterations: resume the run"
            )
        return self.stored.draw(engine.integers(len(self.stored), n), engine.dtype).images
