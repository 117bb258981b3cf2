"""What a network costs: parameters, operations, memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dreamstill.networks.network import plain_copy


class Cost(NamedTuple):
    """The cost of one network. ``flops``: of one image's forward pass; a multiply-add counts as two."""

    params: int
    flops: int
    bytes: int


def count(network: nn.Module, channels: int, image_size: tuple[int, int]) -> Cost:
    """Count on a copy in eval mode, so that the network's state stays as it is."""
    copied = plain_copy(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copied(torch.zeros(1, channels, *image_size))
    tensors = [*copied.parameters(), *copied.buffers()]
    return Cost(
        sum(p.numel() for p in copied.parameters()),
        int(counter.get_total_flops()),
        sum(t.numel() * t.element_size() for t in tensors),
    )
