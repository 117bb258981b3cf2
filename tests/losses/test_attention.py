import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from dreamstill.losses.attention import attention, attention_distance, hint_distance, resized
from dreamstill.losses.prior import activation
from dreamstill.losses.statistics import bn_statistics
from dreamstill.networks.probes import Moments


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_map_of_two_channels_by_hand():
    # Mean squares (1 + 7) / 2 = 4 and (4 + 2) / 2 = 3: the vector (4, 3) has length 5.
    features = torch.tensor([[[[1.0, -2.0]], [[math.sqrt(7), math.sqrt(2)]]]])
    assert torch.allclose(attention(features), torch.tensor([[0.8, 0.6]]))


def test_distances_by_hand():
    one, other = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    tilted = torch.tensor([[[[2.0, math.sqrt(3)]]]])  # squares (4, 3): the unit vector (0.8, 0.6)
    assert attention_distance([one], [other]).item() == pytest.approx(math.sqrt(2))  # disjoint: the largest there is
    assert attention_distance([one], [tilted]).item() == pytest.approx(math.sqrt(0.04 + 0.36))
    assert attention_distance([one], [tilted], "squared").item() == pytest.approx((0.04 + 0.36) / 2)
    both = attention_distance([one, one], [other, tilted]).item()
    assert both == pytest.approx(math.sqrt(2) + math.sqrt(0.4))  # a sum over pairs
    batch = attention_distance([torch.cat([one, one])], [torch.cat([other, one])]).item()
    assert batch == pytest.approx(math.sqrt(2) / 2)  # a mean over images


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(2, 5), st.floats(0.1, 50))
def test_vectors_have_unit_length_and_no_scale(b, c, h, w, factor):
    x = maps(b, c, h, w)
    assert torch.allclose(torch.linalg.vector_norm(attention(x), dim=1), torch.ones(b, dtype=x.dtype), atol=1e-12)
    y = maps(b, c + 2, h, w, seed=1)
    for form in ("norm", "squared"):
        expected = attention_distance([x], [y], form)
        assert torch.allclose(attention_distance([factor * x], [y / factor], form), expected, atol=1e-9)
        assert attention_distance([x], [x], form).item() == 0
        assert 0 <= expected <= math.sqrt(2) + 1e-9


def test_sizes_that_differ():
    small, large = maps(2, 3, 2, 4), maps(2, 5, 4, 8, seed=1)
    # Shrinking averages over areas: a map of blocks gives the blocks again.
    blocks = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(resized(blocks, (2, 4)), small)
    assert torch.allclose(attention(blocks, (2, 4)), attention(small))
    assert attention_distance([blocks], [small]).item() == pytest.approx(0, abs=1e-12)
    # Growing is bilinear; the teacher's map is never touched.
    assert torch.allclose(resized(small, (4, 8)), F.interpolate(small, size=(4, 8), mode="bilinear"))
    grown = F.interpolate(small.square().mean(1, keepdim=True), size=(4, 8), mode="bilinear").flatten(1)
    expected = torch.linalg.vector_norm(F.normalize(grown) - attention(large), dim=1).mean()
    assert torch.allclose(attention_distance([small], [large]), expected)
    assert resized(small, (2, 4)) is small
    assert resized(maps(1, 1, 4, 2), (2, 4)).shape == (1, 1, 2, 4)


def test_dead_and_equal_maps_have_finite_gradients():
    live = maps(2, 3, 4, 4).requires_grad_()
    dead = torch.zeros(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    (attention_distance([dead], [live]) + attention_distance([live], [live])).backward()
    assert dead.grad.abs().sum() == 0
    assert live.grad.isfinite().all()


@pytest.mark.parametrize("form", ["norm", "squared"])
def test_gradients(form):
    x, y = maps(2, 2, 3, 3).requires_grad_(), maps(2, 3, 4, 2, seed=1).requires_grad_()
    assert gradcheck(lambda a, b: attention_distance([a], [b], form), (x, y))
    y = maps(2, 2, 3, 3, seed=1).requires_grad_()
    assert gradcheck(lambda a, b: hint_distance([a], [b]), (x, y))


def test_hints_are_mean_squares_summed_over_pairs():
    x = torch.ones(2, 3, 2, 2)
    assert hint_distance([x, x], [3 * x, x]).item() == 4.0
    assert hint_distance([torch.ones(2, 3, 4, 4)], [2 * x]).item() == 1.0  # brought to the teacher's size


def test_pairs_must_match_in_number():
    with pytest.raises(ValueError):
        attention_distance([maps(1, 1, 2, 2)], [])


def test_activation_is_the_negative_mean():
    assert activation(torch.tensor([[1.0, -3.0], [0.0, 4.0]])).item() == -2.0


def test_squared_statistics_by_hand():
    m = Moments(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 3.0]), torch.zeros(2), torch.ones(2))
    same = Moments(torch.ones(2), torch.ones(2), torch.ones(2), torch.ones(2))
    assert bn_statistics([m], "squared").item() == 25 + 4
    assert bn_statistics([m, same], "squared").item() == 29 / 2  # over the number of layers
    assert bn_statistics([same], "squared").item() == 0
