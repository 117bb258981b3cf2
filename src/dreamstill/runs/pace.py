"""Keep a budget of minutes: the last phase is cut or lengthened while it runs, by the speed that is seen."""

from __future__ import annotations

import time

from dreamstill.engine import Engine

# Iterations that are not looked at: their operations are counted, which takes longer.
_SLOW = 10
_EARLY = 0.05  # of the time: after that they count all the same
# A plan is left alone that is as near as this to what the speed so far would give.
_NEAR = 0.02


class Pace:
    """How many iterations the last phase shall have, asked after each of them.

    The speed is that of the iterations since the last look, and there are looks at every twentieth of the time. So a
    machine that turns out slower or faster than the trial still ends in time, and its schedules end with it.

    Args:
        seconds: from now to the end of the last phase.
    """

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds
        self._first = 0.0  # when the first iteration of the phase was done
        self._seen = self.began, 0  # when the last look was, and the iterations done by then
        self._looks = 0

    def __call__(self, engine: Engine, done: int, planned: int) -> int:
        """The number of iterations, given those that are done and planned; more than are done."""
        if engine.ranks > 1 and done % max(1, planned // 100):
            return planned  # asking the other ranks waits for them
        now = time.monotonic()
        self._first = self._first or now
        if engine.first_rank(done <= 1 or (done <= _SLOW and now - self._first < _EARLY * self.seconds)):
            self._seen = now, done
            return planned
        since, before = self._seen
        look = int(20 * (now - self.began) / self.seconds)
        # Clocks differ from rank to rank, and all must plan alike: the first one's decides.
        due = engine.first_rank(look > self._looks and done > before)
        if not due:
            return planned
        self._looks = look
        each = (now - since) / (done - before)
        self._seen = now, done
        left = self.began + self.seconds - now
        wanted = engine.first_rank(max(done + 1, done + int(left / each)))
        return wanted if abs(wanted - planned) > _NEAR * planned else planned
