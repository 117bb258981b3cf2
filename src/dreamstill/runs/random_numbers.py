"""torch's global state belongs to the caller: a run uses it and restores it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def kept_random_streams() -> Iterator[None]:
    """Leave torch's global random streams, of the CPU and of every CUDA device, as they were before.

    NumPy's and Python's own are not used anywhere in dreamstill.
    """
    began = torch.cuda.is_initialized()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if began else []):
        first = torch.initial_seed()
        try:
            yield
        finally:
            if not began and torch.cuda.is_initialized():
                torch.manual_seed(first)  # the state in which an unused CUDA stream would have begun


@contextlib.contextmanager
def kept_threads() -> Iterator[None]:
    """Leave the number of torch's threads as it was before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
