"""Batch-norm statistics as a memory of the training data (DeepInversion, Yin et al., arXiv:1912.08795)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dreamstill.networks.probes import Moments

Form = Literal["norm", "gaussian_kl", "squared"]
Over = Literal["mean", "sum"]


def bn_statistics(moments: Sequence[Moments], form: Form = "norm", over: Over = "mean") -> Tensor:
    """Distance between the batch's statistics and the running ones, averaged or summed over the layers, >= 0.

    ``norm``: ``||mean - running_mean||_2 + ||var - running_var||_2`` a layer (DeepInversion's released form).
    ``gaussian_kl``: the divergence of two Gaussians a channel, summed over channels (data-free quantisation form).
    ``squared``: the squares of ``norm``'s two norms: steeper where the statistics are far off, flatter near them.
    The published sum over layers is this times the number of layers; the average keeps a weight meaningful
    when the teacher changes.
    """
    term = {"norm": _norm, "gaussian_kl": _gaussian_kl, "squared": _squared}[form]
    layers = torch.stack([term(m) for m in moments])
    return layers.sum() if over == "sum" else layers.mean()


def _norm(m: Moments) -> Tensor:
    return torch.linalg.vector_norm(m.mean - m.running_mean) + torch.linalg.vector_norm(m.var - m.running_var)


def _gaussian_kl(m: Moments) -> Tensor:
    return channel_divergence(m).sum()


def channel_divergence(m: Moments, eps: float = 1e-5) -> Tensor:
    """Divergence of the batch's Gaussian from the running one (``c``), >= 0, in nats."""
    var, running_var = m.var + eps, m.running_var + eps
    shift = (m.mean - m.running_mean).square()
    return 0.5 * (running_var.log() - var.log()) + (var + shift) / (2 * running_var) - 0.5


def _squared(m: Moments) -> Tensor:
    return (m.mean - m.running_mean).square().sum() + (m.var - m.running_var).square().sum()
