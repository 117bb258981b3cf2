"""The loop's own accounts: operations and seconds."""

import time

import pytest
import torch
from conftest import Silent, tiny_network

from dreamstill.engine import Engine, Given
from dreamstill.loop import Cadence, run
from dreamstill.methods import Phase
from dreamstill.state import Checkpoints


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


def go(tmp_path, steps, evaluate=None, evaluations=0):
    engine = Engine(Given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", steps=steps)
    method = Uneven()
    method.setup(engine)
    return run(method, engine, Checkpoints(tmp_path), Silent(), Cadence(evaluations=evaluations), evaluate=evaluate)


@pytest.mark.parametrize("steps", [100, 1000])
def test_operations_of_uneven_iterations(steps, tmp_path):
    assert go(tmp_path, steps).flops == pytest.approx(steps / 5 * 2 * 10 * 20 * 30)


def test_seconds_include_the_last_evaluation(tmp_path):
    def evaluate(_ema):
        time.sleep(0.2)
        return {}

    outcome = go(tmp_path, 4, evaluate, evaluations=2)
    assert 0.4 <= outcome.evaluation_seconds <= outcome.seconds
