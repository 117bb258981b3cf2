"""Keep to a budget of minutes: shorten or lengthen the last phase while it runs, by the measured speed."""

from __future__ import annotations

import time

from dreamstill.engine import Engine

# The first iterations are not measured: they are slower, because their operations are counted.
_SLOW = 10
_EARLY = 0.05  # of the time; after that they are measured all the same
# A plan stays as it is if it is as near as this to what the measured speed would give.
_NEAR = 0.02


class Pace:
    """How many iterations the last phase should have. The loop asks after each of them.

    The speed is measured at every twentieth of the time, over the iterations since the last measurement. So a run that
    is slower or faster than the trial still ends in time, and its schedules end with it.

    Args:
        seconds: from now to the end of the last phase.
    """

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds
        self._first = 0.0  # when the first iteration of the phase was done
        self._seen = self.began, 0  # the time of the last measurement, and the iterations done by then
        self._looks = 0

    def __call__(self, engine: Engine, done: int, planned: int) -> int:
        """The number of iterations, always more than ``done``, from those done and planned so far."""
        if engine.ranks > 1 and done % max(1, planned // 100):
            return planned  # asking the other ranks waits for them
        now = time.monotonic()
        self._first = self._first or now
        if engine.first_rank(done <= 1 or (done <= _SLOW and now - self._first < _EARLY * self.seconds)):
            self._seen = now, done
            return planned
        since, before = self._seen
        look = int(20 * (now - self.began) / self.seconds)
        # Clocks differ from rank to rank, but all must make the same plan: the first rank's clock decides.
        due = engine.first_rank(look > self._looks and done > before)
        if not due:
            return planned
        self._looks = look
        each = (now - since) / (done - before)
        self._seen = now, done
        left = self.began + self.seconds - now
        wanted = engine.first_rank(max(done + 1, done + int(left / each)))
        return wanted if abs(wanted - planned) > _NEAR * planned else planned
