"""Whether a run fits into memory: an estimate from steps with two and four images, and a sentence where it did not."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamstill.engine import Engine, Given, Hardware
from dreamstill.errors import InputError, first_line
from dreamstill.methods import Method
from dreamstill.networks.network import copied
from dreamstill.ranges import Batch, marked
from dreamstill.runs.requirements import smaller_generator

_FEW, _MORE = 2, 4  # images in the two trials
_ROOM = 0.8  # of the memory: the rest is for what is not counted, as the libraries' own
_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


@dataclass(frozen=True)
class Estimate:
    """Bytes of tensors that an iteration holds at most: ``fixed + images * each``, and what there is."""

    fixed: float
    each: float
    images: int
    there: int

    @property
    def bytes(self) -> float:
        """At the method's own batch."""
        return self.fixed + self.images * self.each

    @property
    def fits(self) -> bool:
        """Whether that is there."""
        return self.bytes <= _ROOM * self.there

    @property
    def most_images(self) -> int:
        """How many images a step may have, a power of two; 0 where not even one fits."""
        room = (_ROOM * self.there - self.fixed) / max(self.each, 1.0)
        return 2 ** (int(room).bit_length() - 1) if room >= 1 else 0


def estimate(method: Method, given: Given, hardware: Hardware) -> Estimate | None:
    """The memory of an iteration, on copies; None for a method without a batch, or that takes none so small."""
    batches = {name: getattr(method, name) for name in marked(type(method), Batch)}
    if not batches:
        return None
    try:
        few, more = (_peak(replace(method, **dict.fromkeys(batches, n)), given, hardware) for n in (_FEW, _MORE))  # type: ignore[type-var]
    except Exception:  # of batches this small, whatever a method's losses raise
        return None
    each = max(more - few, 0) / (_MORE - _FEW)
    return Estimate(few - _FEW * each, each, max(batches.values()), available(hardware.device))


def available(device: str) -> int:
    """Bytes of memory: what is free on a GPU, and of the machine's what the system says is available."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _peak(method: Method, given: Given, hardware: Hardware) -> int:
    with _Live() as live:
        own = replace(given, teacher=copied(given.teacher), student=copied(given.student))
        engine = Engine(own, device=hardware.device, precision=hardware.precision, steps=10_000)
        method.setup(engine)
        for phase in method.phases(10_000):
            for i in range(2):  # optimisers have all of their state after the first
                engine.begin(i, 0.0, phase.schedules)
                phase.step(engine)
    return live.peak


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it, from their first use to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


# ---------------------------------------------------------------- in words


def advice(found: Estimate, method: Method, given: Given) -> str:
    """How to make a run fit that does not, as the end of a sentence."""
    ways = []
    if found.most_images:
        ways += [
            f"--method.{name.replace('_', '-')} {found.most_images}"
            for name in marked(type(method), Batch)
            if getattr(method, name) > found.most_images
        ]
    if smaller := smaller_generator(method, given.teacher):
        ways.append(smaller)
    if not ways:
        ways = ["a smaller --image-size, where the teacher takes one", "another machine"]
    return f"{' and '.join(ways[:1])}{f', or {ways[1]}' if ways[1:] else ''}"


def describe(found: Estimate, method: Method, given: Given) -> str:
    """An estimate, and whether it fits, as a line of ``--dry-run``."""
    said = f"about {_gib(found.bytes)} for steps of {found.images} images, and {_gib(found.there)} are available"
    if found.fits:
        return said
    return f"{said}: it does not fit; give {advice(found, method, given)}"


def _gib(value: float) -> str:
    return f"{value / 2**30:.2g} GiB"


@contextlib.contextmanager
def in_words(hint: str) -> Iterator[None]:
    """Memory that ran out, as a sentence that ends in ``hint``.

    Raises:
        InputError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and not any(word in str(error).lower() for word in _WORDS):
            raise
        raise InputError(f"the memory is not enough ({first_line(error) or 'MemoryError'}): {hint}") from error
