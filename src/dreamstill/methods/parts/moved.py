"""Images of a stored set as a student sees them: shifted, mirrored, warped and noisy, each by its own draw."""

from __future__ import annotations

from torch import Tensor

from dreamstill.data.augment import warp
from dreamstill.engine import Engine
from dreamstill.methods.parts.replay import shifted


def moved(
    engine: Engine, images: Tensor, batch_size: int, crop: int, flip: bool, warped: float, noise: float
) -> Tensor:
    """Images (``b c h w``) in [0, 1].

    Args:
        engine: whose draws these are.
        images: this rank's.
        batch_size: of all ranks together.
        crop: largest shift in pixels.
        flip: mirror every other one.
        warped: strength of :func:`dreamstill.data.augment.warp`.
        noise: its standard deviation.
    """
    images = shifted(engine, images, batch_size, crop, flip)
    if warped:
        images = warp(images, engine.uniform(batch_size, 4), warped)
    if noise > 0:
        images = images + noise * engine.noise(batch_size, *images.shape[1:], images=False)
    return images.clamp(0, 1)
