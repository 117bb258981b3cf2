"""A batch of images as the parameters that are optimised, and figures on a set that is made of them."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamstill.data.bank import ImageBank
from dreamstill.engine import Engine
from dreamstill.engine.parts import Cast
from dreamstill.engine.schedules import Schedule
from dreamstill.losses.soft_targets import entropy, target_kl
from dreamstill.methods.parts.soft_targets import shares
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float, to_uint8

Init = Literal["uniform", "normal", "mean"]


class Pixels(nn.Module):
    """The images of one batch, as what is optimised."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        """``n c h w``."""
        return self.images

    @torch.no_grad()
    def start(self, z: Tensor, how: Init, network: Network) -> None:
        """Noise images from standard normal noise z (``n c h w``), for the network with this mean and std.

        ``uniform`` in [0, 1]; ``normal``: with the network's mean and std; ``mean``: close around its mean.
        """
        spread = 0.05 if how == "mean" else network.std
        # The normal distribution's own function makes normal noise uniform.
        images = torch.special.ndtr(z) if how == "uniform" else z * spread + network.mean
        self.images.copy_(images.clamp(0, 1) if how == "mean" else images)

    @torch.no_grad()
    def settle(self, how: str) -> None:
        """Return them to [0, 1] after a step: each value by itself, or the whole batch by its extremes."""
        if how == "clamp":
            self.images.clamp_(0, 1)
        elif how == "rescale":
            low, high = self.images.aminmax()
            self.images.sub_(low).div_(high - low)


def halved_twice(batches: int, iterations: int) -> Schedule:
    """The pixels' learning rate, halved at 60 % and 80 % of each of some batches; the progress is that of all."""

    def course(progress: float) -> float:
        at = round(progress * batches * iterations) % iterations
        return 0.5 ** sum(at >= m * iterations for m in (0.6, 0.8))

    return course


def jitter(engine: Engine, shape: torch.Size, flip: bool) -> tuple[Tensor, Tensor]:
    """How far each image (``n c h w``) is rolled, up to an eighth of its sides, and whether it is mirrored."""
    n, reach = shape[0], max(1, min(shape[2:]) // 8)
    coins = engine.coins(n)
    return engine.integers(2 * reach + 1, n, 2) - reach, coins if flip else torch.zeros_like(coins)


class Account:
    """A set in the making: stores its images, and says how its targets are and how near the images came to them.

    Args:
        engine: observes it, a batch.
        bank: where the images are stored, with the teacher's logits.
    """

    def __init__(self, engine: Engine, bank: ImageBank) -> None:
        self.bank, self.k = bank, engine.given.teacher.num_classes
        self.sums = engine.buffer("sums", torch.zeros(4, dtype=engine.dtype))  # of each batch's means
        self.counts = engine.buffer("counts", torch.zeros(self.k, dtype=torch.int64))

    def begin(self, engine: Engine, targets: Tensor) -> None:
        """A batch of targets (``n k``)."""
        share = shares(targets)
        seen = {"entropy": entropy(targets), "largest_class": share.max(), "smallest_class": share.min()}
        engine.observe("targets", seen)

    @torch.no_grad()
    def keep(self, engine: Engine, images: Tensor, targets: Tensor, teacher: Cast, tau: float) -> None:
        """Store the batch (``n c h w``) as it will be read back, with the teacher's logits of those images."""
        images = to_float(to_uint8(images), engine.dtype)
        logits, y = teacher(engine.mine(images)).logits, engine.mine(targets)
        seen = {
            "agreement": (logits.argmax(1) == y.argmax(1)).to(logits.dtype).mean(),
            "confidence": F.softmax(logits, dim=1).amax(1).mean(),
            "gap": target_kl(logits, y, tau),
        }
        engine.observe("images", seen)
        self.bank.add(images, logits=engine.gather(logits))
        self.sums += torch.stack([entropy(targets), *(engine.average(v) for v in seen.values())])
        self.counts += torch.bincount(targets.argmax(1), minlength=self.k)

    def facts(self, batch: int) -> dict[str, Any]:
        """Of the whole set, made in batches: its targets' entropy and classes, and how near its images came to them."""
        nats, agreement, confidence, gap = (self.sums / max(len(self.bank) // batch, 1)).tolist()
        return {
            "images": len(self.bank),
            "target_entropy": nats,
            "target_entropy_at_most": math.log(self.k),
            "target_classes": self.counts.tolist(),
            "agreement": agreement,
            "confidence": confidence,
            "gap": gap,
        }
