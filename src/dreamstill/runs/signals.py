"""SIGTERM and Ctrl-C in a run: it stops at the end of the iteration, or within it where that takes too long."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

GRACE = 5.0  # seconds that an iteration may still take after a signal


class CutShort(BaseException):
    """Raised within an iteration; no ``except Exception`` in a method or library shall swallow it."""


class Signals:
    """Notes a signal. An iteration that then goes on for longer than :data:`GRACE` is broken off, as by a second one.

    What such an iteration has changed is lost: the run goes on from the last checkpoint. Python sees signals between
    two of its operations, so one that is a single long call into a library is waited for. No alarm is used, which
    may be the caller's: a thread sends the same signal again.

    Args:
        breaks_off: whether iterations may be broken off; with several processes the others would wait for ever.
    """

    def __init__(self, breaks_off: bool) -> None:
        self.caught: str | None = None
        self._breaks_off = breaks_off
        self._inside = False
        self._before: dict[int, Any] = {}
        self._over = threading.Event()
        self._reminder: threading.Thread | None = None

    def __enter__(self) -> Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._catch)
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
        if self.caught is None:
            self.caught = signal.Signals(number).name
            if self._breaks_off:
                self._reminder = threading.Thread(target=self._remind, args=(number,), daemon=True)
                self._reminder.start()
        elif self._inside and self._breaks_off:
            raise CutShort

    def _remind(self, number: int) -> None:
        while not self._over.wait(GRACE):
            os.kill(os.getpid(), number)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._reminder is not None:
            self._reminder.join()
        for number, before in self._before.items():
            signal.signal(number, before)
