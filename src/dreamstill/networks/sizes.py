"""The size of images that a network takes, found by trying the usual ones."""

from __future__ import annotations

import torch

from dreamstill.networks.network import Network

USUAL = (224, 299, 64, 96, 128, 32, 28)


def accepted_side(copied: Network) -> int | None:
    """The first usual side of square images for which a network gives its logits; None where it does for none.

    Args:
        copied: a copy in eval mode, which is run.
    """
    for side in USUAL:
        try:
            with torch.no_grad():
                outputs = copied(torch.zeros(2, copied.channels, side, side))
        except Exception:  # whatever somebody's forward() raises
            continue
        if outputs.dim() in (2, 4) and tuple(outputs.shape[:2]) == (2, copied.num_classes):
            return side
    return None
