"""Soft targeted transfer set synthesis, Wang, AAAI 2021. The equations have the numbers of docs/methods/soft_target.md.

Its body could not be read: *second-hand* is from a summary, *ZSKD code* its predecessor's, *port* a re-implementation.
Recipe: recipes/soft_target_warped_mnist_lenet5.yaml, 98.4 +- 0.3 % (benchmarks/records/cpu).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.data.augment import roll_flip
from dreamstill.data.bank import ImageBank
from dreamstill.engine import Engine, Terms
from dreamstill.engine.schedules import cosine
from dreamstill.errors import InputError
from dreamstill.losses.distillation import kl
from dreamstill.losses.soft_targets import feature_size, target_kl
from dreamstill.methods import Method, Phase, Shows
from dreamstill.methods.parts.image_prior import ImagePrior
from dreamstill.methods.parts.moved import moved
from dreamstill.methods.parts.optimised_images import Account, Init, Pixels, halved_twice, jitter
from dreamstill.methods.parts.soft_targets import features
from dreamstill.methods.parts.target_distributions import Normal, Targets, targets_of, warn_of_poor_targets
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Count, Positive, Small, Weight, Whole


@dataclass
class SoftTarget(Method):
    """``L_x = tau^2 KL(y || p(T(x))) - lambda_a mean |f(x)|``, (4), then ``L_S = tau^2 KL(p(T(x)) || p(S(x)))``, (5).

    ``y = p(g(a))``, ``a ~ N(mu, sigma R)``, ``p(t) = softmax(t / tau)``. ``R_ij``: cosine of the incoming weights of
    units i and j of a layer; g: what of the teacher comes after that layer; f: features.
    """

    paper: ClassVar[str] = "Wang, Data-Free Knowledge Distillation with Soft Targeted Transfer Set Synthesis, AAAI 2021"
    needs: ClassVar[frozenset[str]] = frozenset({"input_gradient", "linear_head"})
    shows: ClassVar[Shows] = "stored"
    kept_apart: ClassVar[Mapping[str, Any]] = {"correlate": "units", "exchanged": False, "redraw_targets": False}

    # the soft targets
    sigma: Weight = 2.0
    """Scale of the covariance (second-hand: best 1.5 on MNIST, 2.0 on CIFAR-10, as good from 0.5 to 3)."""
    sigma_is: Literal["variance", "deviation"] = "variance"
    """``variance``: the covariance is sigma R (second-hand); ``deviation``: it is sigma^2 R (inferred)."""
    mu: float = 0.0
    """Mean of every unit (port: 0; the published value could not be read)."""
    bias: bool = False
    """Add the layer's own bias to the mean (inferred: no)."""
    space: Literal["layer", "softmax", "dirichlet", "onehot"] = "layer"
    """What is modelled: a ``layer`` (paper), the logits (``softmax``), ``dirichlet`` (ZSKD), or nothing (ours)."""
    layer: str | None = None
    """Name of the layer; else the last hidden linear one (the paper's FC-2), or the last convolution (inferred)."""
    correlate: Literal["units", "inputs"] = "units"
    """The axis of the weights (second-hand: units); ``inputs``, the port's, has rank K for the classifier."""
    entry: Literal["auto", "raw", "rectified", "truncated", "through"] = "auto"
    """What of a draw enters g (port: raw; inferred: rectified for pooled filters, or through the layer's own ReLU)."""
    centre: Literal["auto", "on", "off"] = "auto"
    """Subtract each logit's mean over the draws, lest a few classes win (inferred: for all entries but raw)."""
    tau: Positive = 20.0
    """Temperature of targets, images and student (ZSKD code; the published value could not be read)."""
    # the images
    lambda_a: Weight = 0.05
    """Weight of the activation term (second-hand: 0.05 for LeNet-5, 0.1 for AlexNet)."""
    activation: str | None = None
    """Tap of its features; else what enters the last hidden linear layer, or the classifier (inferred from DAFL)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the features of an image (port: mean; the paper's could not be read); the sum is as many times the mean."""
    tau_squared: Literal["both", "none", "distance"] = "distance"
    """Which terms are multiplied by tau^2 (inferred: at tau 20 the activation drowns the targets in the others)."""
    exchanged: bool = False
    """The divergence's arguments exchanged (port): methods/released/soft_target.py."""
    redraw_targets: bool = False
    """New targets in every iteration (port): methods/released/soft_target.py."""
    jitter: bool = False
    """Roll by up to an eighth and, if ``flip`` is on, mirror while optimising (port)."""
    w_tv: Weight = 0.0
    """Weight of the total variation (ours: not part of the method)."""
    w_norm: Weight = 0.0
    """Weight of the pixels' squared distance from the teacher's mean (ours: not part of the method)."""
    w_bn: Weight = 0.0
    """Weight of the batch-norm term, the mean over the layers (ours: not part of the method)."""
    lr_x: Weight = 0.03
    """Adam on the pixels, halved at 60 and 80 % of a batch (inferred; ZSKD code: 1e-3; port: 0.1 or 1e-3)."""
    init: Init = "uniform"
    """The images' start: ``uniform`` in [0, 1] (ZSKD code); ``normal`` (port) or close (ours) around the ``mean``."""
    pixels: Literal["clamp", "rescale", "free"] = "clamp"
    """After a step: each to [0, 1] (inferred), the whole batch by its extremes (ZSKD code), or as they are (port)."""
    # the student, and how much of everything
    batch_size: Annotated[Count, Batch(), Small(16)] = 256
    """Images a student step (inferred)."""
    synthesis_batch: Annotated[Count, Batch(), Small(16)] = 256
    """Images optimised together (ZSKD code: 100; inferred: they are independent of each other)."""
    n_images: Annotated[Count, Small(32)] = 4096
    """Size of the transfer set, in whole batches (inferred, small; ZSKD: 24,000 for MNIST, 40,000 for CIFAR-10)."""
    iterations: Annotated[Count, Small(3)] = 500
    """Adam's steps a batch (inferred, small; ZSKD code: 1,500)."""
    tau_s: Positive | None = None
    """Another temperature for the student; without it tau."""
    student_optimiser: Literal["adam", "sgd"] = "adam"
    """Adam (the author's later code, ZSKD code), or SGD with momentum 0.9 and weight decay 5e-4 (ours)."""
    lr_s: Weight = 5e-3
    """Its learning rate, along a cosine (the author's later code: 5e-3, on LeNet 1e-3; ZSKD code: 1e-3)."""
    crop: Whole = 4
    """Pad-and-crop shift of the student's images, in pixels (inferred: 4, for 32x32)."""
    flip: bool = True
    """Mirror them at random; the teacher says anew what it sees (inferred)."""
    warp: Weight = 0.0
    """Turn, stretch and shear them; 1: by up to 15 degrees, 15 % and 0.2 (ours; ZSKD code turns and scales too)."""
    noise: Weight = 0.1
    """Standard deviation of noise on them (inferred). With none of the four the stored logits are learnt from."""

    def setup(self, engine: Engine) -> None:
        """The frozen teacher, the targets' distribution, the pixels, the set they are kept in, the student."""
        network, n, batches = engine.given.teacher, self.synthesis_batch, self.batches
        self.mine, self.divergence = engine.mine, partial(target_kl, tau=self.tau)
        self.prior = ImagePrior(network, self.w_tv, self.w_norm, self.w_bn)
        self.tap = (self.activation or features(network)) if self.lambda_a > 0 else None
        self.teacher = engine.frozen(network, taps=[self.tap] if self.tap else [], bn=self.w_bn > 0)
        self.canvas, course = Pixels(n, network.channels, *network.image_size), halved_twice(batches, self.iterations)
        self.made, self.opt_x = engine.own("images", self.canvas, partial(Adam, lr=self.lr_x), course)
        self.wanted = engine.buffer("targets", torch.zeros(n, network.num_classes, dtype=engine.dtype))
        self.stored = engine.bank("transfer", batches * n, logits=True)
        self.account = Account(engine, self.stored)
        sgd, adam = partial(SGD, lr=self.lr_s, momentum=0.9, weight_decay=5e-4), partial(Adam, lr=self.lr_s)
        self.network, make_opt = engine.given.student, sgd if self.student_optimiser == "sgd" else adam
        self.student, self.opt_s = engine.own("student", self.network, make_opt, cosine)
        how = Normal(self.mu, self.sigma, self.sigma_is, self.bias, self.entry, self.centre, self.tau)
        self.targets = self.model(engine, how)
        warn_of_poor_targets(engine, self.targets, n, self.sigma, self.tau)

    def model(self, engine: Engine, how: Normal) -> Targets:
        """What the targets are drawn from, read off the teacher's weights, eq. (1)."""
        return targets_of(engine, self.space, self.layer, how)

    @property
    def batches(self) -> int:
        """How many batches the transfer set is made in."""
        return -(-self.n_images // self.synthesis_batch)

    def phases(self, steps: int) -> list[Phase]:
        """The images, batch after batch; then one student step an iteration."""
        synthesis = self.batches * self.iterations
        return [Phase("synthesise", synthesis, self.synthesis_step), Phase("distil", steps, self.step)]

    def synthesis_step(self, engine: Engine) -> None:
        """The algorithm, an iteration of one batch: draw targets, and optimise noise images towards them."""
        (before, at), n, pixels = divmod(engine.iteration, self.iterations), self.synthesis_batch, self.canvas.images
        if at == 0:
            # 1. Soft targets of a new batch: draw a ~ N(mu, sigma R), eq. (2), and let g say y = p(g(a)), eq. (3).
            self.canvas.start(engine.gather(engine.noise(n, *pixels.shape[1:])), self.init, engine.given.teacher)
            engine.restart(self.opt_x)
            self.wanted.copy_(self.targets.draw(engine, n, before * n))
            self.account.begin(engine, self.wanted)
        # 2. Pseudo samples: descend L_x, eq. (4), on the pixels; the targets stay.
        by = jitter(engine, pixels.shape, self.flip) if self.jitter else ()
        engine.minimise(self.loss_x, self.opt_x, inputs=(engine.mine(self.wanted), *by))
        self.canvas.settle(self.pixels)
        if at == self.iterations - 1:
            self.account.keep(engine, pixels, self.wanted, self.teacher, self.tau)

    def loss_x(self, y: Tensor, shift: Tensor | None = None, flip: Tensor | None = None) -> Terms:
        """Eq. (4): the teacher says the targets of the images, with strong features; and ours, what images are like."""
        images = self.mine(self.made())
        if shift is not None and flip is not None:
            images = roll_flip(images, shift, flip)
        seen = self.teacher(images, stats=self.w_bn > 0)
        square = 1.0 if self.tau_squared == "none" else self.tau**2
        terms = {"distance": square * self.divergence(seen.logits, y)}
        if self.tap:
            weight = self.lambda_a * (square if self.tau_squared == "both" else 1.0)
            terms["activation"] = -weight * feature_size(seen.taps[self.tap], self.reduction)
        return {**terms, **self.prior(images, seen)}

    def step(self, engine: Engine) -> None:
        """The algorithm's last part: imitate the teacher on the set."""
        # 3. Distillation: descend L_S, eq. (5); of moved and noisy images the teacher is asked anew.
        kept = self.stored.draw(engine.integers(self.stored.capacity, self.batch_size), engine.dtype)
        if not (self.crop or self.flip or self.warp or self.noise):
            return engine.minimise(self.loss_s, self.opt_s, inputs=(kept.images, kept.logits))
        images = moved(engine, kept.images, self.batch_size, self.crop, self.flip, self.warp, self.noise)
        engine.minimise(self.loss_s, self.opt_s, inputs=(images,))

    def loss_s(self, images: Tensor, t: Tensor | None = None) -> Terms:
        """Eq. (5): agree with the teacher, whose logits may be known."""
        with torch.no_grad():
            t = self.teacher(images).logits if t is None else t
        return {"kl": kl(self.student(images), t, self.tau if self.tau_s is None else self.tau_s)}

    def deliver(self) -> Network:
        """The student."""
        return self.network

    def transfer_set(self) -> ImageBank:
        """The images made so far, with the teacher's logits."""
        return self.stored

    def facts(self) -> dict[str, Any]:
        """The account of the whole transfer set."""
        return {"transfer_set": self.account.facts(self.synthesis_batch)}

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """A draw from the transfer set."""
        if len(self.stored) == 0:
            raise InputError(f"no batch of the transfer set is finished ({self.iterations} iterations): resume the run")
        return self.stored.draw(engine.integers(len(self.stored), n), engine.dtype).images

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher: nothing of its classifier where neither targets nor features do."""
        rewarded = self.lambda_a > 0 and self.activation is None
        unread = {"linear_head"} if self.space == "onehot" and not rewarded else set()
        return (self.needs | {"bn"} if self.w_bn > 0 else self.needs) - unread
