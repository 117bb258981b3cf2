"""Whether an exported file answers as the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamstill.networks.network import Network, noise_images, plain_copy

BATCHES = (1, 7, 32)
TOLERANCE = 1e-3  # of the largest logit: float32 sums in another order differ by about 1e-6

Answers = Callable[[Tensor], Tensor]  # images in [0, 1] (``b c h w``) to logits


def parity(network: Network, answers: Answers) -> dict[str, Any]:
    """Compare a file's answers with torch's, on noise around the network's mean in several batch sizes.

    Args:
        network: what was exported.
        answers: of the file, as it was read back.

    Returns:
        ``batches`` (their sizes), ``max_abs_difference`` of the logits, ``max_difference`` (the same as a share of the
        largest logit) and ``argmax_agreement``.
    """
    copied = plain_copy(network)
    expected, got = [], []
    for n in BATCHES:
        images = noise_images(network, n).clamp(0, 1)
        with torch.no_grad():
            expected.append(copied(images))
            got.append(answers(images))
    theirs, mine = torch.cat(expected), torch.cat(got)
    difference = (theirs - mine).abs().max()
    return {
        "batches": list(BATCHES),
        "max_abs_difference": float(difference),
        "max_difference": float(difference / theirs.abs().max().clamp_min(1e-12)),
        "argmax_agreement": agreement(theirs, mine),
    }


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of images, of a dense network of pixels, that two networks' logits (``n k ...``) give the same class."""
    return float((one.argmax(1) == other.argmax(1)).double().mean())
