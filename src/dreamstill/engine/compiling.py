"""Compiled steps."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from dreamstill.engine.batchnorm import LeanBatchNorm
from dreamstill.files import cache_folder

_NUMBERS = itertools.count()


class Graphs:
    """The compiled form of each function that a run computes, or the function itself where nothing is compiled."""

    def __init__(self, device: torch.device, on: bool) -> None:
        self.device, self.on = device, on
        self._of: dict[Any, Callable[..., Any]] = {}

    def __call__(self, key: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
        """What to call in place of ``fn``; ``key`` says which functions are the same one."""
        if not self.on:
            return fn
        if key not in self._of:
            self._of[key] = compiled(fn, self.device)
        return self._of[key]

    @contextlib.contextmanager
    def eagerly(self) -> Iterator[None]:
        """Without compiled graphs, for counting operations."""
        on, self.on = self.on, False
        try:
            yield
        finally:
            self.on = on


def compiled(fn: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """``fn`` as one graph of fixed shapes, on a CPU with the batch norm of :mod:`dreamstill.engine.batchnorm`.

    The compiler stores its versions by code, not by function, and gives up on a piece of code after eight. So each
    function gets code of its own here, and a suite of many runs in one process is compiled to its end.
    """
    _keep_compiled()

    def on_cpu(*inputs: Any) -> Any:
        with LeanBatchNorm():
            return fn(*inputs)

    # On a GPU the compiler's own batch norm is bound by memory already (inferred).
    def elsewhere(*inputs: Any) -> Any:
        return fn(*inputs)

    run = on_cpu if device.type == "cpu" else elsewhere
    run.__code__ = run.__code__.replace(co_name=f"step_{next(_NUMBERS)}")
    return torch.compile(run, dynamic=False)


def _keep_compiled() -> None:
    """Keep compiled code where it survives a restart of the machine. By default torch puts it under /tmp."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
