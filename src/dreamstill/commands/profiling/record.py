"""Every operation of a few eager iterations: whose it is, what it computes, what it moves, how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import flop_registry

LOSSES = "losses and the rest"
STATISTICS = "batch-norm statistics"
OPTIMISER = "optimiser"


class Spec(NamedTuple):
    """What it takes to make a tensor like another: for running one operation alone."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Op(NamedTuple):
    """One operation that ran."""

    name: str
    step: str  # the network whose step it was, or "images"
    part: str  # network and direction, or what else it belongs to
    flops: float
    bytes: int  # of the tensors it read and wrote
    normalising: int  # of these, see :func:`_normalising`
    seconds: float
    call: tuple[Callable[..., Any], Any, Any] | None  # with Specs for tensors; of what has FLOPs


class Recorder(TorchDispatchMode):
    """Records operations between ``with`` and its end.

    Args:
        networks: the top-level networks by name. Operations inside their forward pass are theirs, and so are those of
            the autograd nodes made there, by the sequence number that forward and backward share.
        device: to wait for.
    """

    def __init__(self, networks: dict[str, nn.Module], device: torch.device) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.step = ""
        self._device = device
        self._inside: list[str] = []
        self._labels: list[str] = []
        self._ranges: list[tuple[int, int, str]] = []
        self._handles = []
        for name, network in networks.items():
            self._handles.append(network.register_forward_pre_hook(self._enter(name)))
            self._handles.append(network.register_forward_hook(self._leave, always_call=True))

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def during(self, step: str) -> Iterator[None]:
        """What runs meanwhile belongs to this step."""
        before, self.step = self.step, step
        yield
        self.step = before

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._inside.append(name)
            self._ranges.append((_sequence(), -1, name))

        return hook

    def _leave(self, *_: Any) -> None:
        name = self._inside.pop()
        last = max(i for i, r in enumerate(self._ranges) if r[1] < 0 and r[2] == name)
        self._ranges[last] = (self._ranges[last][0], _sequence(), name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and write it down."""
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return self._label(func, args, kwargs)
        self._wait()
        start = time.perf_counter()
        out = func(*args, **kwargs)
        self._wait()
        seconds = time.perf_counter() - start
        count = flop_registry.get(func.overloadpacket)
        flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
        call = tree_map(_spec, (func, args, kwargs)) if flops else None
        moved = _moved(func, _tensors((args, kwargs)), _tensors(out))
        name, passes = str(func.overloadpacket), _normalising(func.overloadpacket.__name__, args)
        self.ops.append(Op(name, self.step, self._part(func), flops, moved, passes, seconds, call))
        return out

    def _label(self, func: Any, args: Any, kwargs: Any) -> Any:
        """``record_function`` names a stretch of operations; torch's optimisers name theirs themselves."""
        if "enter" in str(func):
            self._labels.append(OPTIMISER if str(args[0]).startswith("Optimizer") else str(args[0]))
        elif self._labels:
            self._labels.pop()
        return func(*args, **kwargs)

    def _part(self, func: Any) -> str:
        node = torch._C._current_autograd_node()
        if func.overloadpacket is torch.ops.aten.batch_norm_update_stats or (node and "_Moments" in node.name()):
            return STATISTICS
        if self._labels:
            return self._labels[-1]
        if self._inside:
            return f"{self._inside[-1]} forward"
        if node is not None:
            number = node._sequence_nr()
            inner = [r for r in self._ranges if r[0] <= number < r[1]]
            if inner:
                return f"{inner[-1][2]} backward"
        return LOSSES

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def _sequence() -> int:
    return int(torch._C._autograd._get_sequence_nr())


def _tensors(x: Any) -> list[Tensor]:
    return [t for t in tree_flatten(x)[0] if isinstance(t, Tensor)]


def _moved(func: Any, read: list[Tensor], written: list[Tensor]) -> int:
    """Bytes that an operation reads and writes; nothing for views, and for memory that is only taken."""
    name, changes = func.overloadpacket.__name__, func._schema.is_mutable
    if "empty" in name:
        return 0
    theirs = {t.untyped_storage().data_ptr() for t in read}
    if written and not changes and all(t.untyped_storage().data_ptr() in theirs for t in written):
        return 0  # another look at the same memory
    if name in _GATHERING:
        read = [*read[1:], *written]
    elif name in _OVERWRITING:
        read = read[1:]
    elif name.startswith("new_") or name.endswith("_like"):
        read = []
    # A row that is expanded to a thousand is read from its one place.
    return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in (*read, *written))


# Their first argument is where they write; what was there before is not read.
_OVERWRITING = {"copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_"}


# Of their first argument, a bank of images for instance, they read the rows that they return.
_GATHERING = {"index", "index_select", "embedding", "gather"}


def _normalising(name: str, args: Any) -> int:
    """Bytes that batch norm moves between two convolutions that take and give whole maps, fused as far as can be.

    In training the map is read for its statistics, then read and written, with the activation in the same pass: three
    times its size. On the way back the map and the gradient are read for two sums, read again, and the gradient
    written: five. A frozen network's statistics read each map once. Its normalising counts as nothing, as do additions
    and activations elsewhere: they could ride on the convolutions.
    """
    size = args[0].numel() * args[0].element_size() if args and isinstance(args[0], Tensor) else 0
    if "batch_norm" not in name:
        return 0
    if name == "batch_norm_update_stats":
        return size
    # Of the kernels only cuDNN's way back and torch's newest name have no flag: they are for training alone.
    flags = [a for a in args if isinstance(a, bool)]
    trains = flags[0] if flags else name in ("cudnn_batch_norm_backward", "_batch_norm_with_update")
    return (5 if "backward" in name else 3) * size if trains else 0


def _spec(x: Any) -> Any:
    return Spec(tuple(x.shape), tuple(x.stride()), x.dtype) if isinstance(x, Tensor) else x
