"""All random numbers of a run. Each draw is a function of (seed, iteration, number of the draw).

So a resumed run draws what an uninterrupted one would have drawn. Draws are made for the global batch and each rank
takes its rows, so several ranks together draw what one alone would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from dreamstill.engine.seeds import stream
from dreamstill.errors import InputError


class Draws:
    """A run's random numbers. ``batch`` is the size of the global batch; each draw returns this rank's share of it.

    Args:
        seed: of the run.
        device: where draws are made and returned.
        dtype: of what is not an integer.
        ranks: how many processes share a batch.
        rank: which of them this is.
        classes: labels are drawn from [0, classes).
    """

    def __init__(
        self, seed: int, device: torch.device, dtype: torch.dtype, ranks: int, rank: int, classes: int
    ) -> None:
        self.seed, self.device, self.dtype = seed, device, dtype
        self.ranks, self.rank, self.classes = ranks, rank, classes
        self.iteration, self.drawn = 0, 0  # drawn: rows of noise that became images
        self._calls = 0
        self._order: tuple[int, int, Tensor] | None = None

    def settle(self) -> None:
        """Call before a method's set-up, so that its networks start with the same weights in every run and rank."""
        torch.manual_seed(self._key("setup"))

    def begin(self, iteration: int) -> None:
        """Start an iteration. Dropout and the like draw from torch's global stream, which is tied to it too."""
        self.iteration, self._calls = iteration, 0
        torch.manual_seed(self._key("global", self.rank))

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Images made within it are no part of the run's account of images."""
        drawn = self.drawn
        try:
            yield
        finally:
            self.drawn = drawn

    def noise(self, batch: int, *shape: int, images: bool = True) -> Tensor:
        """Standard normal (``batch *shape``). ``images``: whether each row becomes an image, which is counted."""
        self.drawn += batch if images else 0
        return self._draw(batch, lambda g: torch.randn(batch, *shape, generator=g, device=self.device)).to(self.dtype)

    def labels(self, batch: int) -> Tensor:
        """Class labels, uniform and independent (int64 ``batch``)."""
        return self.integers(self.classes, batch)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high) (int64); the first dimension is the batch."""
        return self._draw(shape[0], lambda g: torch.randint(high, shape, generator=g, device=self.device))

    def uniform(self, batch: int, n: int) -> Tensor:
        """``n`` uniform draws from [0, 1) for each of ``batch`` images, in steps of 2^-16."""
        return self.integers(1 << 16, batch, n).to(self.dtype) / (1 << 16)

    def coins(self, batch: int) -> Tensor:
        """Fair coins (bool ``batch``)."""
        return self.integers(2, batch).bool()

    def sweep(self, n: int, batch: int) -> Tensor:
        """This iteration's batch of indices (int64), going through all ``n`` in a new order each epoch.

        The rest of an epoch that is smaller than a batch is left out.
        """
        epoch, position = divmod(self.iteration, n // batch)
        if self._order is None or self._order[:2] != (n, epoch):  # an order is drawn and moved once an epoch
            generator = torch.Generator().manual_seed(stream(self.seed, "epoch", epoch))
            self._order = (n, epoch, torch.randperm(n, generator=generator).to(self.device))
        share, first = self._share(batch), position * batch
        return self._order[2][first + self.rank * share : first + (self.rank + 1) * share]

    @contextlib.contextmanager
    def alike(self) -> Iterator[None]:
        """Within it, torch's own random functions draw the same on all ranks."""
        self._calls += 1
        with torch.random.fork_rng():
            torch.manual_seed(self._key("redraw", self._calls))
            yield

    def redraw(self, module: nn.Module) -> None:
        """Initialise every layer anew that can be, in place and in the same way on all ranks."""
        with self.alike():
            for layer in module.modules():
                reset = getattr(layer, "reset_parameters", None)
                if reset is not None:
                    reset()

    def mine(self, x: Tensor) -> Tensor:
        """This rank's rows of a batch that every rank holds (``b ...`` to ``b/ranks ...``), differentiable."""
        share = self._share(len(x))
        return x[self.rank * share : (self.rank + 1) * share]

    def _draw(self, batch: int, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        self._calls += 1
        generator = torch.Generator(self.device).manual_seed(self._key("draw", self._calls))
        return self.mine(draw(generator))

    def _share(self, batch: int) -> int:
        if batch % self.ranks:
            raise InputError(f"a batch of {batch} cannot be shared by {self.ranks} processes: give a multiple of that")
        return batch // self.ranks

    def _key(self, *parts: object) -> int:
        return stream(self.seed, self.iteration, *parts)
