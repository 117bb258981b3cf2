"""What an image itself should be like, whatever the teacher says of it."""

from __future__ import annotations

from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down and across (``b c h w``, sides of at least 2), >= 0."""
    down = (images[:, :, 1:] - images[:, :, :-1]).square().mean()
    across = (images[..., 1:] - images[..., :-1]).square().mean()
    return down + across


def distance_from_mean(images: Tensor, mean: Tensor) -> Tensor:
    """Mean squared distance of the pixels (``b c h w``) from a channel's mean (broadcastable to them), >= 0.

    The norm that image inversion is often regularised with (Mahendran and Vedaldi, arXiv:1412.0035), taken around the
    mean that the teacher's own normalisation knows.
    """
    return (images - mean).square().mean()
