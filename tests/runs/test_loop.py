"""The loop's own accounts: operations and seconds."""

import signal
import threading
import time

import pytest
import torch
from helpers.logs import Silent
from helpers.networks import make_given, tiny_network

from dreamstill.engine import Engine
from dreamstill.errors import DivergedError, Stopped
from dreamstill.methods import Phase
from dreamstill.runs import loop, signals
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.loop import Cadence, run


class Uneven:
    """A method that multiplies a 10x20 by a 20x30 matrix, but only in every fifth iteration."""

    def setup(self, engine):
        self.network = engine.given.student
        engine.own("student", self.network)

    def phases(self, steps):
        return [Phase("all", steps, self.step)]

    def step(self, engine):
        if engine.iteration % 5 == 0:
            torch.ones(10, 20) @ torch.ones(20, 30)

    def deliver(self):
        return self.network


def go(tmp_path, steps, evaluate=None, evaluations=0, method=None):
    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=steps)
    method = method or Uneven()
    method.setup(engine)
    return run(method, engine, Checkpoints(tmp_path), Silent(), Cadence(evaluations=evaluations), evaluate=evaluate)


@pytest.mark.parametrize("steps", [100, 1000])
def test_operations_of_uneven_iterations(steps, tmp_path):
    assert go(tmp_path, steps).flops == pytest.approx(steps / 5 * 2 * 10 * 20 * 30)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the tests move, as a list of its one reading."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_seconds_include_the_last_evaluation(tmp_path, clock):
    def evaluate(_ema):
        clock[0] += 7.0
        return {}

    outcome = go(tmp_path, 4, evaluate, evaluations=2)
    assert (outcome.evaluation_seconds, outcome.seconds) == (14.0, 14.0)


def test_finite_losses_that_leave_weights_that_are_not_keep_the_last_checkpoint(tmp_path):
    class Broken(Uneven):
        def step(self, engine):
            if engine.iteration == 5:
                with torch.no_grad():
                    next(self.network.parameters()).fill_(float("inf"))

    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=10)
    method = Broken()
    method.setup(engine)
    with pytest.raises(DivergedError, match="weights of the student became NaN or infinite by iteration 6"):
        run(method, engine, Checkpoints(tmp_path), Silent(), Cadence(checkpoint_steps=2))
    state = Checkpoints(tmp_path).load({})
    assert state["progress"]["iteration"] == 4
    assert all(v.isfinite().all() for v in state["engine"]["modules"]["student"].values())


def test_checkpoints_by_steps_come_on_time_on_several_ranks(tmp_path, monkeypatch):
    saved = []

    class Noted(Checkpoints):
        def save(self, iteration, *rest):
            saved.append(iteration)
            super().save(iteration, *rest)

    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=1000)
    method = Uneven()
    method.setup(engine)
    monkeypatch.setattr(engine, "ranks", 2)  # as far as the loop knows
    monkeypatch.setattr(engine, "any_rank", bool)
    run(method, engine, Noted(tmp_path), Silent(), Cadence(checkpoint_steps=333))
    assert saved == [333, 666, 999, 1000]


def test_what_was_recorded_before_the_first_checkpoint_is_recorded_again(tmp_path):
    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=10)
    method, log = Uneven(), Silent()
    method.setup(engine)
    log.rows = [(3, {"student/loss": 1.0})]
    run(method, engine, Checkpoints(tmp_path), log, Cadence(), resume=True)
    assert log.rows[0][0] == 1
    assert [step for step, _ in log.rows] == sorted({step for step, _ in log.rows})


class Drifting(Uneven):
    """Each iteration moves the weights by one, so that an average over them tells which it saw."""

    def step(self, engine):
        with torch.no_grad():
            next(self.network.parameters()).add_(1.0)


class Halt(Exception):
    pass


class Halting(Silent):
    def progress(self, done, values):
        if done == 496:
            raise Halt


def looped(folder, cls=Drifting, log=None, steps=500, resume=False, **cadence):
    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=steps)
    method = cls()
    method.setup(engine)
    return run(method, engine, Checkpoints(folder), log or Silent(), Cadence(**cadence), resume)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_average(tmp_path):
    whole = looped(tmp_path / "whole", checkpoint_steps=495).ema
    with pytest.raises(Halt):
        looped(tmp_path / "cut", log=Halting(), checkpoint_steps=495)
    again = looped(tmp_path / "cut", checkpoint_steps=495, resume=True).ema
    assert again.updates == whole.updates == 500
    ours, theirs, first = (list(n.parameters()) for n in (again.network, whole.network, tiny_network((3, 4), 1)))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert 480 < (ours[0] - first[0]).mean() < 499  # an average, and not a copy of the last weights, which moved by 500


def test_the_average_is_over_a_fiftieth_of_the_last_phase(tmp_path):
    class Two(Uneven):
        def phases(self, steps):
            return [Phase("before", 100, self.step), Phase("all", steps, self.step)]

    assert looped(tmp_path, Two, steps=200).ema.decay == pytest.approx(1 - 1 / (0.02 * 200))


def test_the_seconds_of_a_resumed_run_are_all_of_them(tmp_path, clock):
    class Ticking(Uneven):
        def step(self, engine):
            clock[0] += 2.0

    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=10)
    method = Ticking()
    method.setup(engine)
    at = {"iteration": 3, "seconds": 100.0, "evaluation_seconds": 0.0, "flops": 0.0, "ema_updates": 3}
    state = {"engine": engine.state(), "ema": engine.given.student.state_dict(), "progress": at}
    Checkpoints(tmp_path).save(3, state, {})
    assert run(method, engine, Checkpoints(tmp_path), Silent(), Cadence(), resume=True).seconds == 100 + 7 * 2


def test_the_handlers_of_signals_are_given_back(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    go(tmp_path, 2)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("wanted", [40, 13])
def test_the_last_phase_is_lengthened_or_cut_and_so_are_its_accounts(tmp_path, wanted):
    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=20)
    method, log = Uneven(), Silent()
    method.setup(engine)

    def pace(_engine, done, planned):
        return wanted if done >= 12 else planned

    scored = []
    outcome = run(
        method, engine, Checkpoints(tmp_path), log, Cadence(evaluations=4), evaluate=lambda _: scored.append(1) or {},
        pace=pace,
    )  # fmt: skip
    assert outcome.iterations == log.total == wanted
    assert outcome.flops == pytest.approx(wanted / 5 * 2 * 10 * 20 * 30)
    assert log.rows[-1][0] == wanted
    assert len(scored) >= 3  # the last among them
    assert outcome.ema.decay == pytest.approx(1 - 1 / max(0.02 * wanted, 1))


def test_a_run_whose_length_was_changed_goes_on_to_that(tmp_path):
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", steps=20)
    method = Uneven()
    method.setup(engine)

    def pace(_engine, done, _planned):
        if done == 15:
            signal.raise_signal(signal.SIGTERM)
        return 30

    with pytest.raises(Stopped):
        run(method, engine, Checkpoints(tmp_path), Silent(), Cadence(), pace=pace)
    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=20)
    method = Uneven()
    method.setup(engine)
    outcome = run(method, engine, Checkpoints(tmp_path), Silent(), Cadence(), resume=True)
    assert outcome.iterations == 30
    assert outcome.flops == pytest.approx(30 / 5 * 2 * 10 * 20 * 30)


def test_of_iterations_that_are_alike_one_is_counted(tmp_path, monkeypatch):
    counted = []
    count = run.__globals__["_counted"]
    monkeypatch.setitem(run.__globals__, "_counted", lambda *given: counted.append(1) or count(*given))

    class Alike(Uneven):
        def phases(self, steps):
            return [Phase("all", steps, self.multiply, alike=True)]

        def multiply(self, engine):
            torch.ones(10, 20) @ torch.ones(20, 30)

    engine = Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=50)
    method = Alike()
    method.setup(engine)
    outcome = run(method, engine, Checkpoints(tmp_path), Silent(), Cadence())
    assert len(counted) == 1
    assert outcome.flops == pytest.approx(50 * 2 * 10 * 20 * 30)


class Endless(Uneven):
    """Its third iteration would take minutes."""

    def step(self, engine):
        if engine.iteration == 2:
            signal.raise_signal(signal.SIGTERM)
            for _ in range(6000):
                time.sleep(0.01)


@pytest.mark.parametrize("slow", [True, False])
def test_a_signal_does_not_wait_for_an_iteration_of_minutes(slow, tmp_path, monkeypatch):
    """Where iterations take long, each has left a checkpoint; else the last one is what there is."""
    monkeypatch.setattr(signals, "GRACE", 0.05)
    monkeypatch.setattr(loop, "GRACE", -1.0 if slow else 60.0)
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e9)
    began = time.monotonic()
    with pytest.raises(Stopped, match="iteration 2 is there" if slow else "no checkpoint yet") as stopped:
        go(tmp_path, 10, method=Endless())
    assert time.monotonic() - began < 20
    assert "by SIGTERM within iteration 3 of 10" in str(stopped.value)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not [t for t in threading.enumerate() if t.name.endswith("(_remind)")]
    state = Checkpoints(tmp_path).load({})
    assert state is None or state["progress"]["iteration"] == 2
    assert (state is not None) == slow
