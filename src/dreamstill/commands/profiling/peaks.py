"""What the machine can do, measured in the same process: its peaks, and each operation alone at its own shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map

from dreamstill.commands.profiling.record import Op, Spec
from dreamstill.engine.hardware import conv_speed

ROUNDS = 5
SMALL_SIDE = 256  # of the matrices that are multiplied where larger ones take too long
LONGEST = 10.0  # seconds of one product of large matrices


def best(run: Callable[[], Any], device: torch.device, rounds: int = ROUNDS) -> float:
    """Shortest time of some runs, in seconds, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def machine_peaks(device: torch.device) -> dict[str, float]:
    """FLOP/s of a matrix product and a convolution in float32 and bf16, and bytes/s of a copy (read and written)."""
    found = {}
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        found[f"matmul_{name}"] = matmul_speed(dtype, device)
        found[f"conv_{name}"] = conv_speed(dtype, device=device, runs=8)
    source = torch.ones(64 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy_bytes"] = 2 * source.numel() / best(lambda: target.copy_(source), device)
    return found


def matmul_speed(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a product of two large matrices, or of two small ones where the large ones would take too long.

    A CPU without bf16 instructions multiplies without the library's fast kernels: at 0.3 GFLOP/s the large
    product alone takes a minute.
    """

    def seconds(n: int, rounds: int) -> float:
        a = torch.ones(n, n, dtype=dtype, device=device)
        return best(partial(torch.mm, a, a), device, rounds)

    large = 2048 if device.type == "cpu" else 8192
    small = seconds(SMALL_SIDE, 1)
    if small * (large / SMALL_SIDE) ** 3 > LONGEST:
        return 2 * SMALL_SIDE**3 / small
    return 2 * large**3 / seconds(large, 3)


def alone(ops: Sequence[Op], device: torch.device) -> list[float]:
    """For each operation with FLOPs, its shortest time when nothing else runs; 0 for the others.

    The inputs are made anew in the same shapes and memory formats. Equal operations are measured once.
    """
    known: dict[str, float] = {}
    found = []
    for op in ops:
        if op.call is None:
            found.append(0.0)
            continue
        key = repr(op.call)
        if key not in known:
            func, args, kwargs = tree_map(lambda x: _make(x, device), op.call, is_leaf=lambda x: isinstance(x, Spec))
            known[key] = best(partial(func, *args, **kwargs), device)
        found.append(known[key])
    return found


def _make(x: Any, device: torch.device) -> Any:
    if not isinstance(x, Spec):
        return x
    tensor = torch.empty_strided(x.shape, x.stride, dtype=x.dtype, device=device)
    return tensor.fill_(0.5) if x.dtype.is_floating_point else tensor.zero_()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
