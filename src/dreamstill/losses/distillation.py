"""How far the student is from the teacher. Class dimension 1, so that ``b k`` and ``b k h w`` both work."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the logits, >= 0. DFAD (arXiv:1912.11006) argues for it: unit gradients."""
    return F.l1_loss(student, teacher)


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the logits, >= 0."""
    return F.mse_loss(student, teacher)


def kl(student: Tensor, teacher: Tensor, tau: float = 1.0) -> Tensor:
    """``tau^2 KL(softmax(teacher / tau) || softmax(student / tau))``, summed over classes, mean over the rest.

    The factor keeps the gradient's size when tau changes (Hinton et al., arXiv:1503.02531, section 2).
    Zero if and only if the two distributions agree.
    """
    log_s = F.log_softmax(student / tau, dim=1)
    log_t = F.log_softmax(teacher / tau, dim=1)
    return tau**2 * (log_t.exp() * (log_t - log_s)).sum(dim=1).mean()
