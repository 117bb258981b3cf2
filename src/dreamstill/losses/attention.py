"""Where two networks look: attention transfer, and hints, between feature maps of any width (``b c h w``).

Zagoruyko and Komodakis, arXiv:1612.03928 (attention transfer); Romero et al., FitNets, arXiv:1412.6550 (hints).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

AttentionForm = Literal["norm", "squared"]

_EPS = 1e-6  # a map without any activation stays a vector of zeros


def attention(features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Feature maps (``b c h w``) as vectors of unit length (``b hw``): the mean square over channels, normalised.

    ``size`` (height, width) is what the map is resized to before. No positive factor on the features changes the
    result; a map of zeros gives zeros and no gradient.
    """
    squares = features.square().mean(dim=1, keepdim=True)
    if size is not None:
        squares = resized(squares, size)
    return F.normalize(squares.flatten(1), dim=1, eps=_EPS)


def attention_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], form: AttentionForm = "norm") -> Tensor:
    """How differently two networks look at the same images, summed over pairs of maps (``b c h w`` each), >= 0.

    ``norm``: ``||q_S - q_T||_2``, mean over the batch: at most sqrt(2) a pair (the paper's eq. 2).
    ``squared``: ``(q_S - q_T)^2``, mean over batch and positions (the form its authors released): smaller by about
    the number of positions, so it wants a larger weight.
    Channels may differ; where height or width do, the student's map is resized. Neither network's scale matters.
    """
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        difference = attention(ours, _size(theirs)) - attention(theirs)
        if form == "norm":
            terms.append(torch.linalg.vector_norm(difference, dim=1).mean())
        else:
            terms.append(difference.square().mean())
    return torch.stack(terms).sum()


def hint_distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of feature maps (``b c h w``), summed over pairs, >= 0; FitNets.

    The student's maps already have the teacher's number of channels. Here they are resized.
    """
    return torch.stack(
        [F.mse_loss(resized(ours, _size(theirs)), theirs) for ours, theirs in zip(student, teacher, strict=True)]
    ).sum()


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (``b c h w``) at another size: averaged over areas where they shrink, bilinear where they grow.

    Bilinear shrinking by more than two would skip positions.
    """
    h, w = maps.shape[-2:]
    if (h, w) == size:
        return maps
    if h >= size[0] and w >= size[1]:
        return F.interpolate(maps, size=size, mode="area")
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
