"""SIGTERM and Ctrl-C in a run: it stops at the end of the iteration, or within it where that takes too long."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

GRACE = 5.0  # seconds that an iteration may still take after a signal


class CutShort(BaseException):
    """Raised within an iteration; no ``except Exception`` in a method or library shall swallow it."""


class Signals:
    """Notes a signal. An iteration that then goes on for longer than :data:`GRACE` is broken off.

    What such an iteration has changed is lost: the run goes on from the last checkpoint. Python sees signals between
    two of its operations, so one that is a single long call into a library is waited for.

    Args:
        breaks_off: whether iterations may be broken off; with several processes the others would wait for ever.
    """

    def __init__(self, breaks_off: bool) -> None:
        self.caught: str | None = None
        self._breaks_off = breaks_off
        self._inside = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        handlers: dict[int, Any] = {signal.SIGTERM: self._catch, signal.SIGINT: self._catch}
        if self._breaks_off:
            handlers[signal.SIGALRM] = self._ring
        for number, handler in handlers.items():
            try:
                self._before[number] = signal.signal(number, handler)
            except ValueError:  # not in the main thread: whoever runs us handles signals
                pass
        return self

    @contextlib.contextmanager
    def iteration(self) -> Iterator[None]:
        """What may be broken off."""
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        if self.caught is None and self._breaks_off:
            signal.setitimer(signal.ITIMER_REAL, GRACE, GRACE)
        self.caught = signal.Signals(number).name

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        if self._inside:
            raise CutShort

    def __exit__(self, *_: object) -> None:
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, before in self._before.items():
            signal.signal(number, before)
