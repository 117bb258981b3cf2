"""What is read of the losses between two readings."""

import pytest
import torch

from dreamstill.engine.readings import Readings
from dreamstill.errors import DivergedError


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def take(readings, iteration=1):
    return readings.take(lambda x: x, torch.float64, iteration)


def test_the_mean_of_each_term_over_the_steps_that_had_it():
    readings = Readings()
    readings.add("student", {"kl": scalar(1.0), "ce": scalar(4.0)})
    readings.add("student", {"kl": scalar(3.0)})  # a step without one of the terms
    readings.add("generator", {"bn": scalar(5.0)})
    readings.add("generator", {})
    assert take(readings) == {"student/kl": 2.0, "student/ce": 4.0, "generator/bn": 5.0}
    assert take(readings) == {}  # a reading begins anew


def test_the_term_that_was_nan_first_is_named_and_not_those_it_spread_to():
    readings, nan = Readings(), float("nan")
    for step in range(6):
        readings.add("generator", {"bn": scalar(nan if step >= 2 else 1.0), "label": scalar(nan if step >= 3 else 1.0)})
        for _ in range(3):
            readings.add("student", {"kl": scalar(nan if step >= 3 else 1.0)})
    with pytest.raises(DivergedError, match=r"^generator/bn became NaN or infinite by iteration 6; "):
        take(readings, 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_terms_that_are_so_in_the_same_step_are_both_named(value):
    readings = Readings()
    readings.add("student", {"kl": scalar(value), "hint": scalar(1.0), "ce": scalar(value)})
    with pytest.raises(DivergedError, match=r"student/kl and student/ce became"):
        take(readings)
