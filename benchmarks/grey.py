"""The image's gradient of a first convolution on grey images: the library's, and ours as one banded matrix product.

``python benchmarks/grey.py`` runs both in turn, each shape several times, and keeps the smallest times in
``benchmarks/records/grey/``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamstill.engine.hardware import keep_freed_memory
from dreamstill.files import write_json
from dreamstill.networks.builtin.grey_convolution import to_image
from dreamstill.runs.machine import machine

RECORD = Path(__file__).parent / "records" / "grey" / "times.json"
# Images, filters, side, kernel: LeNet-5 and its half, convnet on digits, and larger sides.
SHAPES = (
    (256, 6, 32, 5), (128, 3, 32, 5), (128, 32, 8, 3), (128, 32, 32, 3), (64, 32, 64, 3), (16, 32, 128, 3),
    (8, 32, 224, 3), (64, 6, 64, 5), (16, 6, 128, 5), (8, 6, 224, 5),
)  # fmt: skip


def smallest(functions: Sequence[Callable[[], Tensor]], rounds: int) -> list[float]:
    """Each function's smallest time in seconds, the functions in turn."""
    best = [float("inf")] * len(functions)
    for i_round in range(rounds + 1):  # the first warms up
        for i, function in enumerate(functions):
            started = time.perf_counter()
            function()
            if i_round:
                best[i] = min(best[i], time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_freed_memory()
    rows = []
    for b, c, side, k in SHAPES:
        x, weight = torch.rand(b, 1, side, side), torch.randn(c, 1, k, k)
        g = torch.rand(b, c, side - k + 1, side - k + 1).contiguous(memory_format=torch.channels_last)

        def library(g: Tensor = g, x: Tensor = x, weight: Tensor = weight) -> Tensor:
            mask = [True, False, False]
            return torch.ops.aten.convolution_backward(
                g, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, mask
            )[0]

        def ours(g: Tensor = g, weight: Tensor = weight) -> Tensor:
            return to_image(g, weight, 0)

        assert torch.allclose(library(), ours(), rtol=1e-3, atol=1e-3)
        theirs_s, ours_s = smallest([library, ours], options.rounds)
        rows.append({"images": b, "filters": c, "side": side, "kernel": k, "library_s": theirs_s, "ours_s": ours_s})
        print(f"{b} images, {c} filters, {side}x{side}, {k}x{k}: {theirs_s * 1e3:.2f} ms, ours {ours_s * 1e3:.2f} ms")
    write_json(RECORD, {"machine": machine(), "rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
