"""Images that a student never learned from, made without data, to test how well it copies its teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamstill.data.augment import warp
from dreamstill.engine.draws import Draws
from dreamstill.losses.image import total_variation
from dreamstill.losses.statistics import channel_divergence
from dreamstill.networks.generators import SMALLEST, Generator
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Probe

GENERATORS = 10  # untrained ones; they differ from each other more than the images of one do
OPTIMISER_STEPS = 40  # for the pixels; they bring the batch norms' statistics near those of real images


def noise_around(teacher: Network, draws: Draws, n: int) -> Tensor:
    """White noise with the teacher's own mean and standard deviation (``n c h w``)."""
    return draws.noise(n, teacher.channels, *teacher.image_size) * teacher.std + teacher.mean


def blotches(teacher: Network, draws: Draws, n: int) -> Tensor:
    """Smooth noise (``n c h w``) with the teacher's mean and std: blotches of three sizes, down to single pixels."""
    height, width = teacher.image_size
    images = torch.zeros((), device=draws.device)
    for factor, share in ((1, 0.3), (4, 0.6), (8, 0.75)):
        size = (max(height // factor, 2), max(width // factor, 2))
        z = draws.noise(n, teacher.channels, *size)
        images = images + share * F.interpolate(z, size=(height, width), mode="bilinear", align_corners=False)
    return images / images.std() * teacher.std + teacher.mean


@torch.no_grad()
def of_untrained_generators(teacher: Network, draws: Draws, n: int) -> Tensor | None:
    """Images of several generators with fresh weights (``n c h w``); None if none can make images of these sides."""
    if any(side % SMALLEST for side in teacher.image_size):
        return None
    made = []
    for _ in range(GENERATORS):
        with draws.alike():
            generator = Generator(teacher, nz=64, width=16).to(draws.device, draws.dtype)
        made.append(generator(draws.noise(max(n // GENERATORS, 2), 64)))
    return torch.cat(made)


def mixed(images: Tensor, draws: Draws) -> Tensor:
    """Each image (``n c h w``) mixed with 15 to 45 % of another."""
    n = len(images)
    other = images[draws.integers(n, n)]
    share = (0.15 + 0.3 * draws.uniform(n, 1)).view(n, 1, 1, 1)
    return (1 - share) * images + share * other


def warped(images: Tensor, draws: Draws) -> Tensor:
    """Each image (``n c h w``) turned, stretched and sheared by its own draw, further than methods do in training."""
    return warp(images, draws.uniform(len(images), 4), 1.5)


def optimised(probe: Probe, draws: Draws, n: int, steps: int = OPTIMISER_STEPS) -> Tensor:
    """Blotches whose pixels are optimised (``n c h w``) until the teacher is confident and its batch norms match.

    Classes are drawn evenly. If the teacher has batch norms, the batch's statistics are drawn to the running ones.
    """
    teacher = probe.network
    labels = draws.integers(teacher.num_classes, n)
    pixels = blotches(teacher, draws, n).sub(teacher.mean).div(teacher.std).requires_grad_()
    opt = torch.optim.Adam([pixels], lr=0.1)
    with torch.enable_grad():
        for _ in range(steps):
            images = pixels * teacher.std + teacher.mean
            seen = probe(images, stats=True)
            loss = F.cross_entropy(seen.logits, labels) + 0.1 * total_variation(pixels)
            if seen.moments:
                loss = loss + 3 * torch.stack([channel_divergence(m).clamp_max(10).mean() for m in seen.moments]).mean()
            (gradient,) = torch.autograd.grad(loss, [pixels])
            pixels.grad = gradient
            opt.step()
    return (pixels * teacher.std + teacher.mean).detach()
