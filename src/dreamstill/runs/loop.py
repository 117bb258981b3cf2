"""The loop: phases and steps, averaging, logging, checkpoints. Short, and the same for every method."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from torch.utils.flop_counter import FlopCounterMode

from dreamstill.engine import Engine, check_finite
from dreamstill.engine.ema import Ema
from dreamstill.errors import Stopped
from dreamstill.methods import Method
from dreamstill.runs.checkpoints import Checkpoints

# Iterations of a phase, from its first, whose operations are counted: they are not all alike (generators re-drawn
# every few steps, replay once there is a bank), and counting runs without compiled graphs.
COUNTED = 10


class Log(Protocol):
    """Where the loop reports to; see :class:`dreamstill.runs.metrics_log.Tracker`."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record values at a step."""

    def progress(self, done: int, values: dict[str, float]) -> None:
        """Show how far the run is."""

    def cut(self, step: int) -> None:
        """Drop what was recorded after a step."""


@dataclass
class Cadence:
    """How often the loop does what is not training."""

    log: int = 0  # iterations between two readings of the losses; 0: a hundredth of the run, at least 1
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 0  # iterations between checkpoints, in place of seconds
    evaluations: int = 0  # how often over the run ``evaluate`` is called


@dataclass
class Outcome:
    """What the loop hands back."""

    ema: Ema
    iterations: int
    seconds: float
    flops: float
    evaluation_seconds: float = 0.0


@dataclass
class Progress:
    """Counters that a resumed run goes on with."""

    iteration: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    flops: float = 0.0
    ema_updates: int = 0


def run(
    method: Method,
    engine: Engine,
    checkpoints: Checkpoints,
    log: Log,
    cadence: Cadence,
    resume: bool = False,
    evaluate: Callable[[Ema], dict[str, float]] | None = None,
) -> Outcome:
    """Run all phases of a method that was set up, from the start or from the last checkpoint.

    Raises:
        DivergedError: a loss term or a weight became NaN or infinite; the last checkpoint is good.
        Stopped: a signal came; a checkpoint was written.
    """
    phases = method.phases(engine.steps)
    total = sum(p.iterations for p in phases)
    # The last phase is the student's: images made before it, however long that took, are no part of its schedule.
    ema = Ema(method.deliver(), phases[-1].iterations)
    at = Progress()
    if resume:
        if (state := checkpoints.load(engine.banks)) is not None:
            engine.load(state["engine"])
            ema.network.load_state_dict(state["ema"])
            at = Progress(**state["progress"])
            ema.updates = at.ema_updates
        log.cut(at.iteration)
    every = cadence.log or max(1, total // 100)
    evaluations = {round(total * (i + 1) / cadence.evaluations) for i in range(cadence.evaluations)}
    started, saved = time.monotonic() - at.seconds, time.monotonic()
    last: dict[str, float] = {}

    def save() -> None:
        at.ema_updates = ema.updates
        at.seconds = time.monotonic() - started
        if engine.rank == 0:
            state = {"engine": engine.state(), "ema": ema.network.state_dict(), "progress": vars(at).copy()}
            checkpoints.save(at.iteration, state, engine.banks)
        engine.barrier()

    with _Signals() as signals:
        first = 0
        for phase in phases:
            for i in range(max(at.iteration - first, 0), phase.iterations):
                engine.begin(first + i, i / phase.iterations, phase.schedules)
                if i < COUNTED:
                    at.flops += _counted(engine, phase.step) * phase.iterations / min(COUNTED, phase.iterations)
                else:
                    phase.step(engine)
                ema.update(method.deliver())
                at.iteration = first + i + 1
                now = time.monotonic()
                at.seconds = now - started
                finished = at.iteration == total
                if at.iteration % every == 0 or finished:
                    last = engine.read()
                    log.log(at.iteration, {"seconds": at.seconds, **last})
                log.progress(at.iteration, last)
                if evaluate is not None and at.iteration in evaluations:
                    log.log(at.iteration, evaluate(ema))
                    at.evaluation_seconds += time.monotonic() - now
                    at.seconds = time.monotonic() - started
                # Steps are alike on all ranks; of clocks and signals the others are asked, which waits: not each time.
                ask = engine.ranks == 1 or at.iteration % every == 0
                due = _due_by_steps(cadence, at.iteration) or (ask and engine.any_rank(_late(cadence, now - saved)))
                stop = ask and engine.any_rank(signals.caught is not None)
                if due or stop or finished:
                    _check(engine, log, at, last)
                    save()
                    saved = time.monotonic()
                if stop and not finished:
                    raise Stopped(
                        f"stopped by {signals.caught or 'another process'} after {at.iteration} of {total} iterations: "
                        "a checkpoint is written, --resume goes on from it"
                    )
            first += phase.iterations
    return Outcome(ema, total, time.monotonic() - started, at.flops, at.evaluation_seconds)


def _due_by_steps(cadence: Cadence, iteration: int) -> bool:
    return cadence.checkpoint_steps > 0 and iteration % cadence.checkpoint_steps == 0


def _late(cadence: Cadence, seconds: float) -> bool:
    return cadence.checkpoint_steps == 0 and seconds > cadence.checkpoint_seconds


def _check(engine: Engine, log: Log, at: Progress, last: dict[str, float]) -> None:
    """Never write a checkpoint over a good one before weights and losses were seen to be finite."""
    if values := engine.read():  # first: a loss that is not says more of the cause
        last.update(values)
        log.log(at.iteration, {"seconds": at.seconds, **values})
    check_finite(engine.modules, at.iteration)


def _counted(engine: Engine, step: Callable[[Engine], None]) -> float:
    """Run one iteration without compilation and count its floating-point operations."""
    with engine.eagerly(), FlopCounterMode(display=False) as counter:
        step(engine)
    return float(counter.get_total_flops())


class _Signals:
    """SIGTERM and Ctrl-C set a flag, and the loop stops at the end of the iteration."""

    def __init__(self) -> None:
        self.caught: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._catch)
            except ValueError:  # not in the main thread: whoever runs us handles signals
                pass
        return self

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self.caught = signal.Signals(number).name

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
