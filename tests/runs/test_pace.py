"""A budget of minutes is kept by changing the plan on the way, with a clock of the test's own."""

import pytest
from helpers.networks import make_given, tiny_network

from dreamstill.engine import Engine
from dreamstill.runs import pace
from dreamstill.runs.pace import Pace


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


@pytest.fixture(scope="module")
def engine():
    return Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=10)


def carried_out(clock, engine, seconds, planned, each):
    """Iterations and seconds of a run whose iteration i takes ``each(i)``."""
    keep, done, began = Pace(seconds), 0, clock.now
    while done < planned:
        clock.now += each(done)
        done += 1
        if done < planned:
            planned = keep(engine, done, planned)
            assert planned > done
    return done, clock.now - began


@pytest.mark.parametrize(
    "each",
    [
        lambda i: 0.1,  # as planned
        lambda i: 0.3,  # the machine is slower than in the trial
        lambda i: 0.03,  # or faster
        lambda i: 0.1 if i < 300 else 0.25,  # a neighbour comes
        lambda i: 0.25 if i < 150 else 0.1,  # or goes
        lambda i: 0.5 if i < 10 else 0.1,  # the first ones, whose operations are counted
    ],
)
def test_the_budget_is_kept_and_used(clock, engine, each):
    _, took = carried_out(clock, engine, 100.0, 1000, each)
    assert 90 <= took <= 104


def test_a_plan_that_is_nearly_right_is_left_alone(clock, engine):
    done, _ = carried_out(clock, engine, 100.0, 1000, lambda i: 0.101)
    assert done == 1000


def test_a_run_that_is_late_ends(clock, engine):
    done, took = carried_out(clock, engine, 10.0, 1000, lambda i: 4.0)
    assert took <= 20
    assert done < 10
