"""What the teacher's output on a good synthetic batch looks like: certain of each image, and of all classes evenly.

Chen et al., DAFL, ICCV 2019, arXiv:1904.01186.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def onehot(logits: Tensor) -> Tensor:
    """Cross-entropy of the teacher's logits (``b k`` or ``b k h w``) with their own arg-max, >= 0 (DAFL eq. 3)."""
    return F.cross_entropy(logits, logits.argmax(dim=1))


def balance(logits: Tensor) -> Tensor:
    """Negative entropy of the mean prediction over batch and pixels, in nats: from -ln k (balanced) to 0 (DAFL eq. 5).

    Does not decompose over ranks: give it the gathered logits of the global batch.
    """
    mean_probs = F.softmax(logits, dim=1).transpose(0, 1).flatten(1).mean(dim=1)
    return (mean_probs * mean_probs.clamp_min(1e-8).log()).sum()


def activation(features: Tensor) -> Tensor:
    """Negative mean absolute activation of the teacher's penultimate features (``b d``), <= 0 (DAFL eq. 4).

    The published sum over features is this times their number: the mean keeps a weight's meaning.
    """
    return -features.abs().mean()
