"""How near the teacher's outputs are to given soft targets, and how strongly its features respond.

Wang, AAAI 2021 (soft targeted transfer set synthesis); ZSKD, Nayak et al., arXiv:1905.08114.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST = 1e-8  # probabilities below are counted as this in a logarithm


def entropy(targets: Tensor) -> Tensor:
    """Mean entropy of probabilities (``b k``), in nats, from 0 to ln k."""
    return -torch.xlogy(targets, targets).sum(1).mean()


def target_kl(logits: Tensor, targets: Tensor, tau: float = 1.0, exchanged: bool = False) -> Tensor:
    """``KL(targets || softmax(logits / tau))``, mean over the batch, >= 0: cross-entropy less the targets' entropy.

    As a function of the logits it has the cross-entropy's gradient, and unlike it ends at 0.

    Args:
        logits: the teacher's (``b k``).
        targets: probabilities (``b k``), zeros allowed.
        tau: temperature.
        exchanged: ``KL(softmax(logits / tau) || targets)`` instead, as one re-implementation has it.
    """
    log_p = F.log_softmax(logits / tau, dim=1)
    if exchanged:
        return (log_p.exp() * (log_p - targets.clamp_min(_LEAST).log())).sum(1).mean()
    return (torch.xlogy(targets, targets) - targets * log_p).sum(1).mean()


def feature_size(features: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """The features' mean size ``mean |f|`` over all elements (``b ...``), >= 0 (DAFL eq. 4, arXiv:1904.01186).

    ``sum`` sums over an image's elements and averages over images: d times as much.
    """
    sizes = features.flatten(1).abs()
    return (sizes.sum(1) if reduction == "sum" else sizes.mean(1)).mean()
