"""How well a network does on real labelled images, and how far two networks agree."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from dreamstill.data.image_set import VOID, ImageSet
from dreamstill.errors import InputError
from dreamstill.networks.predict import predict


def score(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy, calibration error (15 bins), negative log-likelihood, Brier score, accuracy a class, confusion."""
    k = logits.shape[1]
    check_labels(labels, k)
    probs, predicted = logits.softmax(1), logits.argmax(1)
    confusion = torch.bincount(labels * k + predicted, minlength=k * k).view(k, k)
    per_class = confusion.diag() / confusion.sum(1)
    return {
        "accuracy": float((predicted == labels).double().mean()),
        "ece": calibration_error(logits, labels),
        "nll": float(F.cross_entropy(logits, labels)),
        "brier": float((probs - F.one_hot(labels, k)).square().sum(1).mean()),
        # A class without images has no accuracy.
        "per_class": [None if v != v else v for v in per_class.tolist()],
        "confusion": confusion.tolist(),
    }


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error (15 bins) of logits ``n k`` for labels ``n``."""
    # Of probabilities: torchmetrics would take logits that happen to lie in [0, 1] for such.
    return float(multiclass_calibration_error(logits.softmax(1), labels, num_classes=logits.shape[1], n_bins=15))


def check_labels(labels: Tensor, k: int) -> None:
    """Make sure that labels (``n``, or ``n h w`` with void) are among ``k`` classes.

    Raises:
        InputError: one is not.
    """
    # Only maps have a void value. As the label of a whole image, 255 may be a class.
    highest = int(torch.where(labels == VOID, 0, labels).max()) if labels.dim() == 3 else int(labels.max())
    if highest >= k:
        raise InputError(f"the set has labels up to {highest} and the network has {k} classes: it is another task")


def agreement(a: Tensor, b: Tensor) -> float:
    """Share of images (logits ``n k`` each) on which two networks predict the same class."""
    return float((a.argmax(1) == b.argmax(1)).double().mean())


def within_class_spread(features: Tensor, classes: Tensor) -> float | None:
    """How much the images of a class differ: the mean of ``1 - cos`` over pairs of a class, averaged over classes.

    Args:
        features: ``n d``; their lengths do not count.
        classes: int64 ``n``.

    Returns:
        0 where all features of a class point the same way, 1 where they are at right angles; None if no class has two.
    """
    unit, found = F.normalize(features.double(), dim=1), []
    for c in classes.unique():
        mine = unit[classes == c]
        n = len(mine)
        if n > 1:  # the cosines of all pairs are the square of the sum, less the squares
            found.append(1 - (mine.sum(0).square().sum() - mine.square().sum()) / (n * (n - 1)))
    return float(torch.stack(found).mean()) if found else None


def against(logits: Tensor, other: Tensor) -> dict[str, Any]:
    """How far a network (logits ``n k``) gives another one's answers on images without labels.

    Returns:
        What :func:`agreement_by_class` returns; ``ece``: the calibration error of the first one's confidence where the
        second one's class counts as right; ``kl``: the mean divergence of its probabilities from the second one's.
    """
    if logits.shape != other.shape:
        raise InputError(f"teacher and student have {other.shape[1]} and {logits.shape[1]} classes: expected the same")
    told = other.argmax(1)
    divergence = F.kl_div(logits.log_softmax(1), other.log_softmax(1), log_target=True, reduction="batchmean")
    return {
        **agreement_by_class(logits.argmax(1), told, logits.shape[1]),
        "ece": calibration_error(logits, told),
        "kl": float(divergence),
    }


def agreement_by_class(mine: Tensor, theirs: Tensor, k: int) -> dict[str, Any]:
    """Share on which two networks predict the same of ``k`` classes (int64 ``n`` each), overall and by class.

    Returns:
        ``agreement``; ``interval``: Wilson's for 95 %; ``per_class``: a row for each class of the second network, with
        ``agreement`` None where it saw nothing of it.
    """
    n, same = len(mine), mine == theirs
    counts, agreed = torch.bincount(theirs, minlength=k), torch.bincount(theirs[same], minlength=k)
    rows = [
        {"class": i, "count": c, "share": c / n, "agreement": a / c if c else None}
        for i, (c, a) in enumerate(zip(counts.tolist(), agreed.tolist(), strict=True))
    ]
    share, z = float(same.double().mean()), 1.96
    middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    interval = [(middle + sign * spread) / (1 + z * z / n) for sign in (-1, 1)]
    return {"agreement": share, "interval": interval, "per_class": rows}


def class_shares(predicted: Tensor, k: int) -> Tensor:
    """Share of each of ``k`` classes among predictions (int64 ``n``): float64 ``k``, which sum to 1."""
    return torch.bincount(predicted, minlength=k).double() / max(len(predicted), 1)


def evenness(shares: Tensor) -> float:
    """Entropy of shares (``k``, which sum to 1) over that of even ones: 0 for a single class, 1 for all alike."""
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    return abs(float(entropy)) / math.log(len(shares))  # of one class it is -0.0


def evaluate(
    student: nn.Module, images: ImageSet, teacher: nn.Module | None = None, batch_size: int = 512
) -> dict[str, Any]:
    """Score a network on a real set, and against a teacher if one is given.

    Returns:
        What :func:`score` returns when the set has labels; ``agreement`` and, with labels, ``teacher`` (its own
        score) when there is a teacher. Accuracies and agreement are fractions.
    """
    logits = predict(student, images.pixels, batch_size)
    result: dict[str, Any] = {} if images.labels is None else score(logits, images.labels)
    if teacher is not None:
        other = predict(teacher, images.pixels, batch_size)
        if other.shape[1] != logits.shape[1]:
            raise InputError(
                f"teacher and student have {other.shape[1]} and {logits.shape[1]} classes: expected the same"
            )
        result["agreement"] = agreement(logits, other)
        if images.labels is not None:
            result["teacher"] = score(other, images.labels)
    return result
