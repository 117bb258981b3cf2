"""The cost of a run, estimated from a short trial of its steps, for ``--minutes`` and ``--dry-run``."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch

from dreamstill.engine import Engine, Given, Hardware
from dreamstill.engine.ema import Ema
from dreamstill.engine.launch import launch
from dreamstill.errors import InputError
from dreamstill.methods import Method, Phase
from dreamstill.networks.cost import count
from dreamstill.networks.network import copied
from dreamstill.runs.duration import duration
from dreamstill.runs.machine import peak_memory
from dreamstill.runs.settings import FINISHING_SECONDS

LEAST_STEPS = 100  # of the student: with fewer there is no run worth planning
_PRETEND = 10_000  # steps of the schedule the trial pretends to be in


T = TypeVar("T")


@dataclass
class Trial:
    """The measured costs of a run. They are measured on copies, so the run itself is untouched.

    Attributes:
        seconds: of one iteration, by phase.
        first: seconds of the first iteration of each phase, compilation included, all phases together.
        memory: the most bytes that this process held.
        checkpoint: bytes of one checkpoint without the banks' images.
        bank: bytes of the banks, logits and labels included, when full.
        watching: seconds of all evaluations of a run, the last included.
        scoring: seconds of the last evaluation, which comes after training.
        student: seconds of a student step, images and teacher not counted.
    """

    seconds: dict[str, float]
    first: float
    memory: int
    checkpoint: int
    bank: int
    watching: float = 0.0
    scoring: float = 0.0
    student: float = 0.0

    def total(self, method: Method, steps: int) -> float:
        """Seconds of a run of ``steps`` student steps, without evaluations."""
        return self.first + sum(p.iterations * self.seconds[p.name] for p in method.phases(steps))


def work(method: Method, given: Given) -> float:
    """About the FLOPs of a student step: the teacher's forward pass and the student's forward and backward."""
    teacher, student = (count(n, n.channels, n.image_size).flops for n in (given.teacher, given.student))
    return float(method.images_a_step * (teacher + 3 * student))


def measure(
    make: Callable[[], Method],
    given: Given,
    hardware: Hardware,
    seed: int,
    patience: float = 6.0,
    watch: Callable[[Given], tuple[float, float]] = lambda _: (0.0, 0.0),
) -> Trial:
    """Run each phase's step for up to ``patience`` seconds in all, or once if that takes twice as long.

    ``watch``: measures the seconds of all evaluations of a run and of the last one, with the networks where the engine
    has placed them.
    """
    own = replace(given, teacher=copied(given.teacher), student=copied(given.student))
    engine = Engine(
        own, device=hardware.device, precision=hardware.precision, compile=hardware.compile, seed=seed,
        steps=_PRETEND,
    )  # fmt: skip
    method = make()
    method.setup(engine)
    student = _Watched(engine, "student step")
    ema = Ema(method.deliver(), _PRETEND)
    phases, seconds, first = method.phases(_PRETEND), {}, 0.0
    for phase in phases:
        times: list[float] = []
        started = time.perf_counter()
        for i in range(1000):
            now = time.perf_counter()
            engine.begin(i, 0.0, phase.schedules)
            phase.step(engine)
            ema.update(method.deliver())
            engine.read()  # waits for the device
            times.append(time.perf_counter() - now)
            waited, enough = time.perf_counter() - started, patience / len(phases)
            if engine.any_rank(waited > (enough if i else 2 * enough)):
                break
        first += times[0]
        each = statistics.mean(times[1:] or times)
        seconds[phase.name] = float(engine.average(torch.tensor(each, device=engine.device)))
    buffer = io.BytesIO()
    torch.save({"engine": engine.state(), "ema": ema.network.state_dict()}, buffer)
    bank = sum(b.capacity * b.row_bytes for b in engine.banks.values())
    return Trial(seconds, first, peak_memory(), buffer.tell(), bank, *watch(engine.given), student.mean())


class _Watched:
    """Measures the steps of one network."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name, self.times = engine, name, list[float]()
        engine.watch = self

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if name != self.name:
            yield
            return
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        self.times.append(time.perf_counter() - began)

    def _wait(self) -> None:
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)

    def mean(self) -> float:
        """Mean seconds of a step, without the first if there are more; 0 if there was none."""
        return statistics.mean(self.times[1:] or self.times or [0.0])


def agreed(value: T, hardware: Hardware) -> T:
    """The first process's value, on all processes. Each has a clock of its own, but all must make the same plan."""
    return launch(hardware.device, hardware.precision).broadcast(value)


def steps_for(seconds: float, trial: Trial, method: Method) -> int:
    """The most student steps that fit into ``seconds``, together with the phases of fixed length.

    Raises:
        InputError: not even a hundred fit.
    """
    fits, too_many = 0, 1
    while trial.total(method, too_many) <= seconds:
        fits, too_many = too_many, too_many * 2
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if trial.total(method, middle) <= seconds:
            fits = middle
        else:
            too_many = middle
    if fits < LEAST_STEPS:
        raise InputError(_too_short(seconds, trial, method))
    return fits


def _too_short(seconds: float, trial: Trial, method: Method) -> str:
    """Why a budget is too short: for each phase of fixed length its time, and the settings that would shorten it."""
    leaves = f"the budget leaves {duration(max(seconds, 0.0))} for training"
    needed = trial.total(method, LEAST_STEPS)
    fixed = [p for p in fixed_phases(method) if p.iterations * trial.seconds[p.name] > needed / 10]
    if not fixed:
        each = max(trial.seconds.values())
        return (
            f"{leaves}, and an iteration takes {each:.2g} s. That is too short for a run: give more --minutes, or "
            "--steps"
        )
    takes, lower = [], []
    for phase in fixed:
        each = trial.seconds[phase.name]
        takes.append(
            f"the phase {phase.name} takes about {duration(phase.iterations * each)} of that, however few the steps "
            f"({phase.iterations} iterations of {each:.2g} s)"
        )
        lower += [name for name in shortening(method, phase) if name not in lower]
    ways = f", or a lower {' or '.join(lower)} of the method" if lower else ""
    return (
        f"{leaves}, and {LEAST_STEPS} student steps need {duration(needed)}: {' and '.join(takes)}. Give more "
        f"--minutes{ways}"
    )


def fixed_phases(method: Method) -> list[Phase]:
    """The phases before the student's that have the same number of iterations in a short run and a longer one."""
    longer = {p.name: p.iterations for p in method.phases(2 * LEAST_STEPS)}
    return [p for p in method.phases(LEAST_STEPS) if longer.get(p.name) == p.iterations]


def shortening(method: Method, phase: Phase) -> list[str]:
    """The method's settings that shorten the phase when lowered."""
    found = []
    for field in fields(method):  # type: ignore[arg-type]  # every method is a dataclass
        value = getattr(method, field.name)
        if not field.init or isinstance(value, bool) or not isinstance(value, int | float) or value < 2:
            continue
        halved = value // 2 if isinstance(value, int) else value / 2
        changed = replace(method, **{field.name: halved}).phases(LEAST_STEPS)  # type: ignore[type-var]
        if sum(p.iterations for p in changed if p.name == phase.name) < phase.iterations:
            found.append(field.name)
    return found


def describe(trial: Trial, method: Method, steps: int) -> str:
    """The estimate of ``--dry-run`` as text."""
    lines = [f"steps        {steps} of the student"]
    for phase in method.phases(steps):
        each = trial.seconds[phase.name]
        lines.append(f"phase        {phase.name}: {phase.iterations} iterations of {each * 1e3:.3g} ms")
    total = trial.total(method, steps) + trial.watching + FINISHING_SECONDS
    lines.append(f"time         about {duration(total)}, including {duration(trial.watching)} of evaluation")
    lines.append(f"memory       about {trial.memory / 2**30:.2g} GiB")
    # The last two checkpoints are kept, and a third is written before the oldest is removed.
    lines.append(f"disk         about {(3 * trial.checkpoint + trial.bank + 5_000_000) / 2**20:.3g} MiB")
    return "\n".join(lines)
