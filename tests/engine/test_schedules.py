"""Schedules at known points, and what must hold everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstill.engine.schedules import constant, cosine, step_decay, warm_cosine

progress = st.floats(0, 1)


def test_constant():
    assert [constant(p) for p in (0, 0.5, 1)] == [1, 1, 1]


@pytest.mark.parametrize(("p", "value"), [(0, 1), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1, 0), (1.5, 0)])
def test_cosine(p, value):
    assert cosine(p) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("p", "value"), [(0, 1), (0.199, 1), (0.2, 0.1), (0.399, 0.1), (0.4, 0.01), (1, 0.01)]
)  # DFAD's
def test_step_decay(p, value):
    assert step_decay((0.2, 0.4), 0.1)(p) == pytest.approx(value)
    assert step_decay((0.4, 0.2), 0.1)(p) == pytest.approx(value)  # in any order
    assert step_decay((), 0.1)(p) == 1


@pytest.mark.parametrize(("p", "value"), [(0, 0), (0.1, 0.5), (0.2, 1), (0.6, 0.5), (1, 0)])
def test_warm_cosine(p, value):
    assert warm_cosine(0.2)(p) == pytest.approx(value, abs=1e-12)


@given(progress, st.floats(0, 0.9))
def test_all_stay_between_0_and_1(p, warmup):
    for schedule in (constant, cosine, step_decay((0.3, 0.6), 0.2), warm_cosine(warmup)):
        assert 0 <= schedule(p) <= 1 + 1e-12


@given(progress, progress, st.floats(0, 0.9))
def test_after_the_warm_up_nothing_grows(a, b, warmup):
    a, b = sorted((a, b))
    for schedule in (cosine, step_decay((0.3, 0.6), 0.2)):
        assert schedule(b) <= schedule(a)
    a, b = (warmup + p * (1 - warmup) for p in (a, b))
    assert warm_cosine(warmup)(b) <= warm_cosine(warmup)(a) + 1e-12


@given(progress)
def test_no_warm_up_is_the_cosine(p):
    assert warm_cosine(0.0)(p) == cosine(p)
