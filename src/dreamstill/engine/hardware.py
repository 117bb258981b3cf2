"""The hardware of a run: device, precision, compilation. ``auto`` is resolved here, once, by a fixed rule."""

from __future__ import annotations

import ctypes
import math
import time
from typing import Literal, NamedTuple

import torch

from dreamstill.errors import InputError

Precision = Literal["32", "bf16", "64"]


class Hardware(NamedTuple):
    """The hardware of a run, resolved once and recorded."""

    device: str
    precision: Precision
    compile: bool


def choose(device: str, precision: str, compile: str, flops: float) -> Hardware:
    """Resolve ``auto`` by a fixed rule, so that the same command gives the same run.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        precision: ``auto``, ``32``, ``bf16``, ``64``.
        compile: ``auto``, ``on``, ``off``.
        flops: of the whole run, about. Compiling must save more time on them than it takes.

    Raises:
        InputError: a word is none of these, or there is no such device.
    """
    for name, value, allowed in (
        ("precision", precision, ("auto", "32", "bf16", "64")),
        ("compile", compile, ("auto", "on", "off")),
    ):
        if value not in allowed:
            raise InputError(f"{name} is {value!r}: choose one of {', '.join(allowed)}")
    device = {"gpu": "cuda" if torch.cuda.is_available() or not torch.backends.mps.is_available() else "mps"}.get(
        device, device
    )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in ("auto", *there):
        raise InputError(f"device is {device!r}: choose one of auto, {', '.join(there)}")
    if device == "auto":
        device = "cuda" if there["cuda"] else "cpu"  # mps has not been tried, so it is used only on request
    if not there[device]:
        raise InputError(f"there is no {device} device here: choose one of {', '.join(d for d in there if there[d])}")
    if precision == "auto":
        precision = "bf16" if _fast_bf16(device, flops) else "32"
    if compile == "auto":
        least = _WORTH_COMPILING_BF16 if (device, precision) == ("cpu", "bf16") else _WORTH_COMPILING[device]
        compile = "on" if flops > least else "off"
    return Hardware(device, precision, compile == "on")  # type: ignore[arg-type]


# FLOPs of a run above which compiling saves more time than it takes. CPU: measured on two cores
# (benchmarks/precision.py). Compiling takes 50 to 100 s and saves a fifth of the run's time at about 1.5e11 FLOP/s. The
# others are inferred.
_WORTH_COMPILING = {"cpu": 1e14, "cuda": 1e16, "mps": math.inf}
# In bf16 on two cores with matrix units it takes 20 to 40 s and saves two fifths of the run's time at about 3.8e11
# FLOP/s (benchmarks/changes.py --precision bf16).
_WORTH_COMPILING_BF16 = 3e13


# glibc's names and numbers for mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep up to 2 GiB of freed memory for the next step instead of returning it to the system.

    A training step frees and takes the same large blocks again and again. By default each is a fresh mapping, and
    touching its pages for the first time costs as much as the arithmetic of a small network (``benchmarks/changes.py``,
    ``docs/speed.md``). Works on Linux with glibc only; returns whether it was done.
    """
    try:
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
    except (OSError, AttributeError):  # another system, or another C library
        return False


def fastest_threads() -> int:
    """The number of threads that torch would take, or one if other work on the machine makes that faster."""
    every = torch.get_num_threads()
    speeds = {}
    for threads in {every, 1}:
        torch.set_num_threads(threads)
        # Take the slowest of some: when the machine is busy, several threads wait again and again for the last one.
        speeds[threads] = min(conv_speed(torch.float32, runs=1) for _ in range(20))
    torch.set_num_threads(every)
    return every if speeds[every] > 1.2 * speeds[1] else 1


def _fast_bf16(device: str, flops: float) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # The flag alone says nothing: some CPUs with avx512_bf16 run it at 0.6 of float32's speed. And for small networks
    # the casts cost more than they save.
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported() and flops > 1e13 and _bf16_speedup() > 1.5


def _bf16_speedup() -> float:
    return conv_speed(torch.bfloat16) / conv_speed(torch.float32)


def conv_speed(dtype: torch.dtype, device: torch.device | None = None, runs: int = 4) -> float:
    """FLOP/s of a typical convolution, the best of some runs. It takes some tens of milliseconds."""
    cuda = device is not None and device.type == "cuda"
    b, c, side = (512, 256, 32) if cuda else (64, 64, 16)
    x = torch.zeros(b, c, side, side, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    w = torch.zeros(c, c, 3, 3, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, w, padding=1)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * b * side * side * c * c * 9 / min(times)
