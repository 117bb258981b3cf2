"""How long a network takes for an image, on one thread of this machine's CPU."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from dreamstill.networks.parity import Answers

SECONDS, FEWEST = 0.3, 5


@torch.inference_mode()
def milliseconds(answers: Answers, images: Tensor, seconds: float = SECONDS) -> float:
    """The median of repeated calls, after one to warm up. Give torch its one thread before."""
    answers(images)
    took: list[float] = []
    ends = time.perf_counter() + seconds
    while len(took) < FEWEST or time.perf_counter() < ends:
        began = time.perf_counter()
        answers(images)
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)
