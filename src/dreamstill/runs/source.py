"""The synthetic images of a run that was taken up again, in pieces or in shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamstill.data.bank import ImageBank
from dreamstill.data.transfer_set import ROWS, kept
from dreamstill.engine import Engine
from dreamstill.methods import Method
from dreamstill.networks.pixels import to_uint8
from dreamstill.runs.balanced import balanced, balanced_order


@dataclass(frozen=True)
class Source:
    """What makes a run's images, or keeps them. All are uint8 ``n c h w``, on the CPU."""

    method: Method
    engine: Engine
    bank: ImageBank | None  # the transfer set of a method that keeps one
    balanced: bool  # as many of each class, by what the teacher says

    def together(self, n: int) -> Tensor:
        """``n`` images in one piece, as the method makes them."""
        if self.balanced:
            return self._balanced(n, 0)
        return to_uint8(self.method.synthesise(self.engine, n)).cpu().contiguous()

    def pieces(self, n: int | None) -> Iterator[Tensor]:
        """``n`` images; without it the whole transfer set, or as many as a piece has."""
        if self.bank is not None:
            yield from self._kept(self.bank, n)
            return
        n = n or ROWS
        for start in range(0, n, ROWS):
            size = min(ROWS, n - start)
            yield self._balanced(size, start) if self.balanced else to_uint8(self._make(size)).cpu()

    def shards(self, sizes: list[int]) -> Callable[[int], Tensor]:
        """The images of the shard with a number, which depend on nothing else: neither on which were made before."""
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        if self.bank is not None:
            stored = torch.cat(list(self._kept(self.bank, sum(sizes))))
            return lambda i: stored[starts[i] : starts[i] + sizes[i]]
        first = self.engine.iteration
        state = [(b, b.clone()) for owned in self.engine.owned.values() for b in owned.module.buffers()]

        def make(i: int) -> Tensor:
            for buffer, value in state:  # batch norms that ran
                buffer.copy_(value)
            self.engine.begin(first + i, 1.0)
            if self.balanced:
                return self._balanced(sizes[i], starts[i])
            return to_uint8(self._make(sizes[i])).cpu()

        return make

    def _make(self, n: int) -> Tensor:
        return self.method.synthesise(self.engine, n)[:n]

    def _balanced(self, n: int, start: int) -> Tensor:
        """``n`` images, of which the j-th of the whole set is of class ``j mod k`` as far as order goes."""
        teacher = self.engine.given.teacher
        k = teacher.num_classes
        wanted = torch.bincount(torch.arange(start, start + n) % k, minlength=k)
        return balanced(self._make, teacher, wanted)

    def _kept(self, bank: ImageBank, n: int | None) -> Iterator[Tensor]:
        if not self.balanced:
            yield from kept(bank, n)
            return
        pixels = torch.cat(list(kept(bank)))
        order = balanced_order(pixels, self.engine.given.teacher, len(pixels) if n is None else n)
        yield from pixels[order].split(ROWS)
