"""The loop: phases and steps, averaging, logging, checkpoints. It is short, and the same for every method."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch.utils.flop_counter import FlopCounterMode

from dreamstill.engine import Engine, check_finite
from dreamstill.engine.ema import Ema
from dreamstill.errors import Stopped
from dreamstill.messages import say
from dreamstill.methods import Method, Phase
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.signals import GRACE, CutShort, Signals

# How many of a phase's first iterations have their operations counted. One is not enough, because iterations differ
# (generators are drawn anew every few steps, replay needs a bank first). Counting runs without compiled graphs.
COUNTED = 10
SAVING_SHARE = 0.1  # of slow iterations' time may go into checkpoints after each of them


# Called after an iteration of the last phase with the engine and the iterations done and planned; gives a new plan.
Pace = Callable[[Engine, int, int], int]


class Log(Protocol):
    """The receiver of the loop's reports; see :class:`dreamstill.runs.metrics_log.Tracker`."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record values at a step."""

    def progress(self, done: int, values: dict[str, float]) -> None:
        """Show the progress of the run."""

    def cut(self, step: int) -> None:
        """Drop what was recorded after a step."""

    def lengthen(self, total: int) -> None:
        """Count to another number of iterations."""


@dataclass
class Cadence:
    """How often the loop does other things than training."""

    log: int = 0  # iterations between two readings of the losses; 0: a hundredth of the run, at least 1
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 0  # iterations between checkpoints, in place of seconds
    evaluations: int = 0  # how often a run calls ``evaluate``


@dataclass
class Outcome:
    """What the loop returns."""

    ema: Ema
    iterations: int
    seconds: float
    flops: float
    evaluation_seconds: float = 0.0


@dataclass
class Progress:
    """Counters with which a resumed run goes on."""

    iteration: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    flops: float = 0.0
    flops_each: float = 0.0  # per iteration of the phase, as far as they were counted
    ema_updates: int = 0
    iterations: int = 0  # of the last phase if they were changed during the run, else 0


def run(
    method: Method,
    engine: Engine,
    checkpoints: Checkpoints,
    log: Log,
    cadence: Cadence,
    resume: bool = False,
    evaluate: Callable[[Ema], dict[str, float]] | None = None,
    pace: Pace | None = None,
) -> Outcome:
    """Run all phases of a method that was set up, from the start or from the last checkpoint.

    ``pace`` may lengthen or shorten the last phase while it runs, so that the run ends when it should.

    Raises:
        DivergedError: a loss term or a weight became NaN or infinite; the last checkpoint is good.
        Stopped: a signal came; a checkpoint was written, or one is there of an earlier iteration.
    """
    phases = method.phases(engine.steps)
    total = sum(p.iterations for p in phases)
    # The last phase is the student's. Making images before it, however long it takes, is not part of its schedule.
    ema = Ema(method.deliver(), phases[-1].iterations)
    at = Progress()
    if resume:
        at = _restored(engine, checkpoints, ema)
        log.cut(at.iteration)
        if at.iterations:
            total += at.iterations - phases[-1].iterations
            phases[-1].iterations = at.iterations
    with Signals(breaks_off=engine.ranks == 1) as signals:
        watch = _Watch(engine, ema, checkpoints, log, cadence, signals, evaluate, at, total)
        first = 0
        for phase in phases:
            i = max(at.iteration - first, 0)
            while i < phase.iterations:
                engine.begin(first + i, i / phase.iterations, phase.schedules)
                try:
                    with signals.iteration():
                        _iterate(engine, phase, i, at)
                except CutShort:
                    raise watch.cut_short(first + i + 1) from None
                ema.update(method.deliver())
                i += 1
                if pace is not None and phase is phases[-1] and i < phase.iterations:
                    watch.change(phase, pace(engine, i, phase.iterations))
                watch.after(first + i)
            first += phase.iterations
    return Outcome(ema, watch.total, watch.seconds(), at.flops, at.evaluation_seconds)


def _iterate(engine: Engine, phase: Phase, i: int, at: Progress) -> None:
    """One iteration, and its operations where they are counted."""
    if i < (counted := min(1 if phase.alike else COUNTED, phase.iterations)):
        each = _counted(engine, phase.step) / counted
        at.flops_each = each + (at.flops_each if i else 0.0)
        at.flops += each * phase.iterations
    else:
        phase.step(engine)


def _restored(engine: Engine, checkpoints: Checkpoints, ema: Ema) -> Progress:
    """Restore the last checkpoint, if there is one, and return its progress."""
    state = checkpoints.load(engine.banks, quiet=engine.rank > 0)
    if state is None:
        if engine.rank == 0:
            say(f"{checkpoints.folder} holds no checkpoint yet: the run starts from its first iteration")
        return Progress()
    engine.load(state["engine"])
    ema.network.load_state_dict(state["ema"])
    at = Progress(**state["progress"])
    ema.updates = at.ema_updates
    return at


@dataclass
class _Watch:
    """What happens after an iteration: readings, scores, checkpoints, and the end after a signal."""

    engine: Engine
    ema: Ema
    checkpoints: Checkpoints
    log: Log
    cadence: Cadence
    signals: Signals
    evaluate: Callable[[Ema], dict[str, float]] | None
    at: Progress
    total: int

    def __post_init__(self) -> None:
        self.started, self.saved = time.monotonic() - self.at.seconds, time.monotonic()
        self.every = self.cadence.log or max(1, self.total // 100)
        times = self.cadence.evaluations
        self.evaluations = {round(self.total * (i + 1) / times) for i in range(times)}
        self.last: dict[str, float] = {}
        self.ended = time.monotonic()  # when the last iteration did, what follows it included
        self.saving = 0.0  # seconds that the last checkpoint took
        self.kept = self.at.iteration  # that of the last checkpoint

    def change(self, phase: Phase, iterations: int) -> None:
        """Give the last phase another number of iterations."""
        if iterations == phase.iterations:
            return
        done, more = self.at.iteration, iterations - phase.iterations
        self.at.flops += self.at.flops_each * more
        self.total += more
        phase.iterations = self.at.iterations = iterations
        left = sum(e > done for e in self.evaluations)
        self.evaluations = {done + round((self.total - done) * (i + 1) / left) for i in range(left)} if left else set()
        self.ema.lengthen(iterations)
        self.log.lengthen(self.total)

    def seconds(self) -> float:
        """Seconds of the run so far, including those before it was resumed."""
        return time.monotonic() - self.started

    def after(self, iteration: int) -> None:
        """Do what is due after an iteration, of which the first is number 1.

        Raises:
            DivergedError: a loss term or a weight is NaN or infinite.
            Stopped: a signal came; a checkpoint was written.
        """
        self.at.iteration, self.at.seconds, now = iteration, self.seconds(), time.monotonic()
        finished = iteration == self.total
        if iteration % self.every == 0 or finished:
            self.last = self.engine.read()
            self.log.log(iteration, {"seconds": self.at.seconds, **self.last})
        self.log.progress(iteration, self.last)
        if self.evaluate is not None and iteration in self.evaluations:
            self.log.log(iteration, self.evaluate(self.ema))
            self.at.evaluation_seconds += time.monotonic() - now
            self.at.seconds = self.seconds()
        # Steps are the same on all ranks. Clocks and signals are not: asking the others waits, so not each time.
        ask = self.engine.ranks == 1 or iteration % self.every == 0
        due = self._due_by_steps() or (ask and self.engine.any_rank(self._late(now) or self._slow(now)))
        stop = ask and self.engine.any_rank(self.signals.caught is not None)
        if due or stop or finished:
            self._check()
            self._save()
        if stop and not finished:
            raise Stopped(
                f"stopped by {self.signals.caught or 'another process'} after {iteration} of {self.total} iterations. "
                "A checkpoint is written, and --resume goes on from it"
            )
        self.ended = time.monotonic()

    def cut_short(self, iteration: int) -> Stopped:
        """What is said when an iteration was broken off."""
        kept = f"the checkpoint of iteration {self.kept} is there, and --resume goes on from it"
        return Stopped(
            f"stopped by {self.signals.caught} within iteration {iteration} of {self.total}, which would have taken "
            f"longer: {kept if self.kept else 'there is no checkpoint yet, and --resume begins anew'}"
        )

    def _due_by_steps(self) -> bool:
        every = self.cadence.checkpoint_steps
        return every > 0 and self.at.iteration % every == 0

    def _late(self, now: float) -> bool:
        return self.cadence.checkpoint_steps == 0 and now - self.saved > self.cadence.checkpoint_seconds

    def _slow(self, now: float) -> bool:
        """Whether iterations take so long that each needs a checkpoint: a signal will not wait for the next one."""
        took = now - self.ended
        return self.cadence.checkpoint_steps == 0 and took > GRACE and self.saving <= SAVING_SHARE * took

    def _check(self) -> None:
        """Make sure that weights and losses are finite before a checkpoint is written."""
        if values := self.engine.read():  # losses first: one that is not finite says more about the cause
            self.last.update(values)
            self.log.log(self.at.iteration, {"seconds": self.at.seconds, **values})
        check_finite(self.engine.modules, self.at.iteration)

    def _save(self) -> None:
        began = time.monotonic()
        self.at.ema_updates, self.at.seconds = self.ema.updates, self.seconds()
        if self.engine.rank == 0:
            state = {
                "engine": self.engine.state(),
                "ema": self.ema.network.state_dict(),
                "progress": vars(self.at).copy(),
            }
            self.checkpoints.save(self.at.iteration, state, self.engine.banks)
        self.engine.barrier()
        self.saved, self.kept = time.monotonic(), self.at.iteration
        self.saving = self.saved - began


def _counted(engine: Engine, step: Callable[[Engine], None]) -> float:
    """Run one iteration without compilation and count its floating-point operations."""
    with engine.eagerly(), FlopCounterMode(display=False) as counter:
        step(engine)
    return float(counter.get_total_flops())
