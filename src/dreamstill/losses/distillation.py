"""How far the student is from the teacher. Class dimension 1, so that ``b k`` and ``b k h w`` both work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the logits, >= 0. DFAD (arXiv:1912.11006) argues for it: unit gradients."""
    return F.l1_loss(student, teacher)


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the logits, >= 0."""
    return F.mse_loss(student, teacher)


def logit_distance(
    student: Tensor,
    teacher: Tensor,
    form: Literal["mse", "log_mse"],
    average: Callable[[Tensor], Tensor],
    guard: float = 0.0,
    batch: int | None = None,
) -> Tensor:
    """The mean squared difference of logits ``b k``, or its logarithm, as CPSC-DFKD's released code has them.

    Args:
        student: logits of this rank.
        teacher: the teacher's, of the same shape.
        form: ``mse``; ``log_mse``: ``log(mse + guard)``, or with ``batch`` half of that plus half of ``log(batch k)``:
            without a guard the log of the Euclidean norm of the whole batch's difference.
        average: takes the mean over ranks, before the logarithm.
        guard: at 0 the logarithm is minus infinity for two equal networks.
        batch: images of all ranks.
    """
    error = mse(student, teacher)
    if form == "mse":
        return error
    log = (average(error) + guard).log()
    return log if batch is None else 0.5 * (log + math.log(batch * student.shape[1]))


def kl(student: Tensor, teacher: Tensor, tau: float = 1.0) -> Tensor:
    """``tau^2 KL(softmax(teacher / tau) || softmax(student / tau))``, summed over classes, mean over the rest.

    The factor keeps the gradient's size when tau changes (Hinton et al., arXiv:1503.02531, section 2).
    Zero if and only if the two distributions are equal.
    """
    log_s = F.log_softmax(student / tau, dim=1)
    log_t = F.log_softmax(teacher / tau, dim=1)
    return tau**2 * (log_t.exp() * (log_t - log_s)).sum(dim=1).mean()


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the two softmaxes, from 0 to ln 2 nats: ``KL(T || M) / 2 + KL(S || M) / 2``.

    ``M`` is their mean. Symmetric, and bounded where two networks contradict each other with certainty.
    """
    log_s, log_t = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    log_m = torch.logaddexp(log_s, log_t) - math.log(2)
    terms = log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)
    return 0.5 * terms.sum(dim=1).mean()


def agreed_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """``KL(T || S)`` of the images on which both have one answer, 0 for the others, mean over all, >= 0.

    What CMI and its successors let an image be rewarded for (arXiv:2105.08584): near a border of the classes, and not
    beyond it, where the teacher itself may be wrong.
    """
    log_s, log_t = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(dim=1)
    right = (student.argmax(1) == teacher.argmax(1)).to(student.dtype)
    return (right * divergence).mean()


def floored_cross_entropy(logits: Tensor, labels: Tensor, floor: float = 0.0) -> Tensor:
    """Mean over images of ``max(CE, floor)``: an image whose cross-entropy is below the floor has no gradient.

    Args:
        logits: ``b k``.
        labels: classes ``b``.
        floor: in nats; 0.25 is an image that its class has 78 % of.
    """
    if floor == 0:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, reduction="none").clamp_min(floor).mean()


def masked_cross_entropy(
    student: Tensor, labels: Tensor, kept: Tensor | None, average: Callable[[Tensor], Tensor]
) -> Tensor:
    """Cross-entropy of logits (``b k``) with labels (``b``), the mean over those ``kept`` (``b``, 0 or 1); 0 if none.

    Args:
        student: the student's logits.
        labels: classes.
        kept: which images count; None for all.
        average: mean over ranks.
    """
    if kept is None:
        return F.cross_entropy(student, labels)
    # The mean number over ranks: their mean loss is then the mean over all kept images.
    count = average(kept.sum()).clamp_min(1e-6)
    return (F.cross_entropy(student, labels, reduction="none") * kept).sum() / count
