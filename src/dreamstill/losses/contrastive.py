"""Contrast: images of one class near each other in feature space, those of other classes far away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def supervised_contrast(views: Sequence[Tensor], labels: Tensor, tau: float = 0.07) -> Tensor:
    """Supervised contrastive loss over all views of a batch (Khosla et al., arXiv:2004.11362, its L_out), >= 0.

    Every view of every image is once the anchor ``i``. All others, ``A(i)``, compete for it; those with its label,
    ``P(i)``, its own other views among them, ought to win::

        mean_i  -1/|P(i)| sum_{p in P(i)} log( exp(v_i v_p / tau) / sum_{a in A(i)} exp(v_i v_a / tau) )

    Does not decompose over ranks: give it the gathered features and labels of the global batch.

    Args:
        views: one tensor ``b d`` a view, all of one shape; features of unit length, which is left to the caller.
        labels: int64 ``b``, the same for all views.
        tau: temperature, positive.

    Returns:
        A 0-d tensor. No view is detached. An anchor without a positive (only possible with one view) does not count;
        the loss of a batch where no anchor has any is 0. If all features are equal it is ``log(len(views) * b - 1)``.
    """
    features, y = torch.cat(list(views)), labels.repeat(len(views))
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    positive = (y[:, None] == y) & ~itself
    # The soft-max subtracts the largest entry of a row, so that exp(1 / tau) cannot overflow.
    log_share = F.log_softmax((features @ features.T / tau).masked_fill(itself, -torch.inf), dim=1)
    count = positive.sum(1)
    of_anchor = -log_share.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1)
    return of_anchor.sum() / (count > 0).sum().clamp_min(1)


def instance_contrast(queries: Tensor, keys: Tensor, others: Tensor, tau: float = 0.1) -> Tensor:
    """Contrast of single images (InfoNCE): each query knows its own key among all keys and others, >= 0.

    ``mean_i -log( exp(q_i k_i / tau) / (sum_j exp(q_i k_j / tau) + sum_m exp(q_i o_m / tau)) )``, as CMI asks it of
    new images against earlier ones (arXiv:2105.08584). Does not decompose over ranks: give it all keys.

    Args:
        queries: features ``b d`` of one view of each image, of unit length, which is left to the caller.
        keys: of another view of the same images, ``b d``.
        others: of other images, ``m d``; none at first (``0 d``).
        tau: temperature, positive.
    """
    similarities = queries @ torch.cat([keys, others]).T / tau
    return F.cross_entropy(similarities, torch.arange(len(queries), device=queries.device))
