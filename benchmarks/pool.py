"""Pooling 2x2: the library's, and ours as maxima of halves, without a gradient and there and back.

``python benchmarks/pool.py`` runs all in turn, each shape several times, and keeps the smallest times in
``benchmarks/records/pool/``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from grey import smallest
from torch import Tensor

from dreamstill.engine.hardware import keep_freed_memory
from dreamstill.files import write_json
from dreamstill.networks.builtin import halving_pool
from dreamstill.runs.machine import machine

RECORD = Path(__file__).parent / "records" / "pool" / "times.json"
# Images, channels, side: LeNet-5 and its half, convnet on digits and its student, VGG.
SHAPES = (
    (256, 6, 28), (256, 3, 28), (256, 16, 10), (256, 8, 10), (128, 32, 8), (128, 10, 8), (128, 64, 32), (128, 128, 16),
)  # fmt: skip


def library(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def both_ways(x: Tensor, whose: object) -> Tensor:
    x = x.detach().requires_grad_()
    y = library(x) if whose is library else halving_pool.both_ways(x)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for b, c, side in SHAPES:
        x = torch.rand(b, c, side, side).contiguous(memory_format=torch.channels_last)
        assert torch.equal(library(x), halving_pool.forward_only(x))
        names = ("library", "ours", "library_both_ways", "ours_both_ways")
        calls = (
            lambda x=x: library(x), lambda x=x: halving_pool.forward_only(x),
            lambda x=x: both_ways(x, library), lambda x=x: both_ways(x, halving_pool),
        )  # fmt: skip
        seconds = dict(zip((f"{name}_s" for name in names), smallest(calls, options.rounds), strict=True))
        rows.append({"images": b, "channels": c, "side": side, **seconds})
        print(
            f"{b} images, {c} channels, {side}x{side}: "
            + ", ".join(f"{k} {1e3 * v:.2f} ms" for k, v in seconds.items())
        )
    write_json(RECORD, {"machine": machine(), "rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
