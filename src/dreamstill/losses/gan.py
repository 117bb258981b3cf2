"""Losses of a class-conditional GAN beside a teacher: hinge, two-way classes, feature integration, class frequencies.

The pieces are standard ones; HiDFD (arXiv:2412.13525) puts them together. Formulas as read in its released code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator: ``E max(0, 1 - d(x)) + E max(0, 1 + d(x~))``, of two vectors ``b``, >= 0."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_g(fake: Tensor) -> Tensor:
    """Generator: ``-E d(x~)``, unbounded both ways."""
    return -fake.mean()


def two_way_d(real: Tensor, y: Tensor, fake: Tensor, c: Tensor) -> Tensor:
    """Classifier: a real image of class y is class 2y, a made one of class c is 2c + 1 (ADC-GAN, arXiv:2107.10060).

    Args:
        real: logits ``b 2k`` of real images.
        y: their labels ``b``.
        fake: logits ``b 2k`` of made images.
        c: the classes they were made for, ``b``.
    """
    return F.cross_entropy(real, 2 * y) + F.cross_entropy(fake, 2 * c + 1)


def two_way_g(fake: Tensor, c: Tensor) -> Tensor:
    """Generator: taken for real of its class, and not for made: ``CE(a, 2c) - CE(a, 2c + 1)``, of either sign."""
    return F.cross_entropy(fake, 2 * c) - F.cross_entropy(fake, 2 * c + 1)


def feature_distance(guess: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch of the (not squared) L2 distance of two ``b f``, >= 0."""
    return torch.linalg.vector_norm(guess - teacher, dim=1).mean()


def feature_transfer(guess: Tensor, teacher: Tensor) -> Tensor:
    """Distance of a guess from the teacher's features of the same image, of collected ones plus of made ones.

    Args:
        guess: ``2b f``, collected images and then as many made ones.
        teacher: the teacher's features of these, ``2b f``.
    """
    (r_real, r_fake), (t_real, t_fake) = guess.chunk(2), teacher.chunk(2)
    return feature_distance(r_real, t_real) + feature_distance(r_fake, t_fake)


def feature_blend(guess: Tensor, teacher: Tensor) -> Tensor:
    """The same of opposite images, by place in the batch: the guess for a made image and a collected one's features."""
    (r_real, r_fake), (t_real, t_fake) = guess.chunk(2), teacher.chunk(2)
    return feature_distance(r_fake, t_real) + feature_distance(r_real, t_fake)


def frequency_weights(frequency: Tensor, beta: float | None = None) -> Tensor:
    """Weights of the classes (``k``, mean 1): the rarer, the larger.

    Args:
        frequency: how often each class came, ``k``, >= 1.
        beta: None weighs by ``1 / N``; a number in [0, 1) by the inverse effective number ``(1 - beta) / (1 - beta^N)``
            (Cui et al., arXiv:1901.05555), which no longer tells classes apart above about ``4 / (1 - beta)``.
    """
    rare = 1 / frequency if beta is None else (1 - beta) / (1 - beta**frequency)
    return rare * (len(rare) / rare.sum())


def frequency_smoothing(logits: Tensor, weights: Tensor) -> Tensor:
    """``sum_k w_k q_k log q_k``, ``q`` the batch-mean prediction (Rangwani et al., Class Balancing GAN, UAI 2021).

    With equal weights it is the negative entropy, in nats. A weight raises its class only while ``q_k < 1/e``: with two
    classes the rarer one is not favoured (derived, not said in the source). The logarithm's argument is held
    above 1e-6: a class that the whole batch misses would give NaN. Does not decompose over ranks: give it the gathered
    logits.

    Args:
        logits: the teacher's, ``b k``.
        weights: ``k``, see :func:`frequency_weights`.
    """
    q = F.softmax(logits, dim=1).mean(dim=0)
    return (weights * q * q.clamp_min(1e-6).log()).sum()
