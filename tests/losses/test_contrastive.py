"""The supervised contrast against numbers worked out by hand, and its gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from dreamstill.losses.contrastive import instance_contrast, supervised_contrast

E = math.e


def unit(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def drawn(b, d, seed):
    x = torch.randn(2, b, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return list(F.normalize(x, dim=2))


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1]])
def test_equal_features_cost_the_logarithm_of_the_others_number(labels):
    same = unit(30, 30, 30, 30)
    assert supervised_contrast([same, same], torch.tensor(labels)).item() == pytest.approx(math.log(7), abs=1e-12)


def test_two_images_of_two_classes_by_hand():
    # Each view of an image equals its other view and is at right angles to both views of the other image.
    views = unit(0, 90)
    expected = -math.log(E / (E + 2))
    assert supervised_contrast([views, views], torch.tensor([0, 1]), tau=1.0).item() == pytest.approx(expected)
    # At tau 1/2 the similarities count twice.
    expected = -math.log(E**2 / (E**2 + 2))
    assert supervised_contrast([views, views], torch.tensor([0, 1]), tau=0.5).item() == pytest.approx(expected)


def test_the_mean_over_positives_is_outside_of_the_logarithm():
    # One class: an anchor's positives are its equal other view and the two at right angles, log shares averaged.
    views = unit(0, 90)
    total = math.log(E + 2)
    expected = -((1 - total) + (0 - total) + (0 - total)) / 3
    assert supervised_contrast([views, views], torch.tensor([0, 0]), tau=1.0).item() == pytest.approx(expected)


def test_views_that_differ_by_hand():
    # Student at 0 and 180 degrees, teacher at 90 and 90: cosines 0 across, -1 between the students, 1 of teachers.
    s, t = unit(0, 180), unit(90, 90)
    student = -math.log(1 / (1 / E + 2))  # positive 0 among -1, 0, 0
    teacher = -math.log(1 / (E + 2))  # positive 0 among 1, 0, 0
    found = supervised_contrast([s, t], torch.tensor([0, 1]), tau=1.0)
    assert found.item() == pytest.approx((student + teacher) / 2)


def test_one_view_leaves_out_anchors_without_a_positive():
    x = unit(0, 0, 90)
    found = supervised_contrast([x], torch.tensor([0, 0, 1]), tau=1.0)
    assert found.item() == pytest.approx(-math.log(E / (E + 1)))  # the mean over two anchors, not over three
    nothing = x.clone().requires_grad_()
    alone = supervised_contrast([nothing], torch.tensor([0, 1, 2]))
    alone.backward()
    assert alone.item() == 0.0
    assert torch.equal(nothing.grad, torch.zeros_like(nothing))


def test_it_rewards_what_it_says():
    y = torch.tensor([0, 0, 1, 1])
    together, apart = unit(0, 10, 180, 190), unit(0, 180, 10, 190)
    assert supervised_contrast([together, together], y) < 0.5 * supervised_contrast([apart, apart], y)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 10_000))
def test_it_is_never_negative_and_knows_no_order(b, d, seed):
    views = drawn(b, d, seed)
    y = torch.randint(3, (b,), generator=torch.Generator().manual_seed(seed))
    value = supervised_contrast(views, y)
    assert value >= 0
    order = torch.randperm(b, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(supervised_contrast([v[order] for v in views[::-1]], y[order]), value, atol=1e-9)
    renamed = torch.tensor([5, 3, 9])[y]
    assert torch.equal(supervised_contrast(views, renamed), value)


def test_the_gradient_is_right_and_reaches_both_views():
    s, t = (v.requires_grad_() for v in drawn(4, 3, 0))
    y = torch.tensor([0, 1, 0, 2])
    assert gradcheck(lambda a, b: supervised_contrast([a, b], y, 0.5), (s, t))
    supervised_contrast([s, t], y).backward()
    for view in (s, t):
        assert (view.grad.abs().sum(1) > 0).all()


def test_a_small_temperature_does_not_overflow():
    views = [v.float().requires_grad_() for v in drawn(8, 4, 1)]
    loss = supervised_contrast(views, torch.arange(8) % 2, tau=0.005)
    loss.backward()
    assert loss.isfinite()
    assert all(v.grad.isfinite().all() for v in views)


def test_an_image_among_others_by_hand():
    queries, keys, others = unit(0, 90), unit(0, 90), unit(180)
    # Cosines with the two keys and the other: 1, 0, -1 and 1, 0, 0.
    expected = (math.log(1 + 1 / E + 1 / E**2) + math.log(1 + 2 / E)) / 2
    assert instance_contrast(queries, keys, others, tau=1.0).item() == pytest.approx(expected, abs=1e-12)
    nothing = others[:0]
    assert instance_contrast(queries, keys, nothing, tau=0.5).item() == pytest.approx(math.log(1 + E**-2), abs=1e-12)


def test_equal_images_cannot_be_told_apart_and_others_make_it_harder():
    same = unit(30, 30)
    assert instance_contrast(same, same, unit(30, 30, 30)).item() == pytest.approx(math.log(5), abs=1e-12)
    near, far = (instance_contrast(unit(0), unit(10), unit(x), 0.5) for x in (20, 120))
    assert near > far


def test_the_gradient_of_the_contrast_of_images_is_right():
    q, k = (v.requires_grad_() for v in drawn(3, 4, 0))
    others = drawn(2, 4, 5)[0].requires_grad_()
    assert gradcheck(lambda a, b, c: instance_contrast(a, b, c, 0.5), (q, k, others))
