"""The noise of one batch of images, as part of what is optimised."""

from __future__ import annotations

import torch
from torch import nn


class Codes(nn.Module):
    """Noise ``b nz``.

    Args:
        batch: images of all ranks together, each of which holds the noise of all.
        nz: length of the noise.
    """

    def __init__(self, batch: int, nz: int) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.zeros(batch, nz))
