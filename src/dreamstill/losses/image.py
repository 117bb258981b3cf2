"""What an image itself should be like, whatever the teacher says of it."""

from __future__ import annotations

from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down and across (``b c h w``, sides of at least 2), >= 0."""
    down = (images[:, :, 1:] - images[:, :, :-1]).square().mean()
    across = (images[..., 1:] - images[..., :-1]).square().mean()
    return down + across
