import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from dreamstill.losses.distillation import agreed_kl, floored_cross_entropy, jensen_shannon, kl, l1, mse
from dreamstill.losses.image import distance_from_mean, total_variation
from dreamstill.losses.prior import balance, onehot
from dreamstill.losses.soft_targets import entropy, feature_size, target_kl
from dreamstill.losses.statistics import bn_statistics, channel_divergence
from dreamstill.networks.probes import Moments

shapes = st.tuples(st.integers(1, 5), st.integers(2, 7), st.integers(0, 10_000))


def logits(shape, scale=3.0):
    b, k, seed = shape
    return torch.randn(b, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def test_kl_known_value():
    student = torch.log(torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    teacher = torch.log(torch.tensor([[0.75, 0.25]], dtype=torch.float64))
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl(student, teacher).item() == pytest.approx(expected, abs=1e-12)
    # At a temperature, both sides are softened, and the whole is scaled back by its square.
    soft = torch.softmax(teacher / 2, 1), torch.softmax(student / 2, 1)
    assert kl(student, teacher, tau=2).item() == pytest.approx(4 * (soft[0] * (soft[0] / soft[1]).log()).sum().item())


def test_an_image_below_the_floor_counts_as_the_floor_and_pulls_no_more():
    shares = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    x, y = shares.log().requires_grad_(), torch.tensor([0, 1, 0])
    loss = floored_cross_entropy(x, y, 0.25)
    loss.backward()
    assert loss.item() == pytest.approx((0.25 + 0.25 + math.log(2)) / 3)  # -log 0.9 and -log 0.8 are below
    assert x.grad[:2].abs().max() == 0
    assert x.grad[2].tolist() == pytest.approx([-0.5 / 3, 0.5 / 3])
    plain = (-math.log(0.9) - math.log(0.8) + math.log(2)) / 3
    assert floored_cross_entropy(x, y).item() == pytest.approx(plain)
    assert floored_cross_entropy(x, y, 0.1).item() == pytest.approx(plain + 0)  # all are above
    assert floored_cross_entropy(x, y, 9.0).item() == 9


def test_l1_and_mse_known_values():
    s, t = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    assert l1(s, t).item() == 2.0
    assert mse(s, t).item() == 5.0


def test_jensen_shannon_known_values():
    sure, other = (torch.tensor([[a, b]], dtype=torch.float64) for a, b in ((80.0, 0.0), (0.0, 80.0)))
    assert jensen_shannon(sure, other).item() == pytest.approx(math.log(2), abs=1e-12)  # the most there is
    student, teacher = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[0.75, 0.25]]).double().log()
    of_t = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    of_s = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    assert jensen_shannon(student, teacher).item() == pytest.approx((of_t + of_s) / 2, abs=1e-12)


@given(shapes)
def test_jensen_shannon_is_symmetric_and_bounded(shape):
    s, t = logits(shape), logits((shape[0], shape[1], shape[2] + 1))
    value = jensen_shannon(s, t)
    assert -1e-12 <= value <= math.log(2) + 1e-12
    assert torch.allclose(jensen_shannon(t, s), value, atol=1e-12)
    assert jensen_shannon(s, s + 3).abs() < 1e-10


def test_agreed_kl_counts_the_images_with_one_answer_alone():
    student = torch.tensor([[0.6, 0.4], [0.6, 0.4]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64).log()
    expected = (0.75 * math.log(0.75 / 0.6) + 0.25 * math.log(0.25 / 0.4)) / 2
    assert agreed_kl(student, teacher).item() == pytest.approx(expected, abs=1e-12)
    assert agreed_kl(student[1:], teacher[1:]).item() == 0.0


@given(shapes, st.floats(0.5, 20))
def test_kl_is_a_divergence_of_shift_invariant_logits(shape, tau):
    s, t = logits(shape), logits((shape[0], shape[1], shape[2] + 1))
    assert kl(t, t, tau).abs() < 1e-10
    assert kl(s, t, tau) >= -1e-12
    assert torch.allclose(kl(s + 5.0, t - 3.0, tau), kl(s, t, tau), atol=1e-9)


def test_kl_takes_maps_with_the_class_in_dimension_one():
    s, t = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 4) for x in (s, t)]
    assert torch.allclose(kl(s, t, 3.0), kl(flat[0], flat[1], 3.0), atol=1e-6)


@given(shapes)
def test_balance_is_bounded_by_the_entropy_of_k_classes(shape):
    value = balance(logits(shape))
    assert -math.log(shape[1]) - 1e-9 <= value <= 1e-6


def test_balance_and_onehot_at_their_ends():
    even, collapsed = 50 * torch.eye(4), 50 * torch.eye(4)[[0, 0, 0, 0]]
    assert balance(even).item() == pytest.approx(-math.log(4), abs=1e-5)
    assert balance(collapsed).item() == pytest.approx(0, abs=1e-5)
    assert onehot(even).item() == pytest.approx(0, abs=1e-5)
    assert onehot(torch.zeros(3, 4)).item() == pytest.approx(math.log(4), abs=1e-6)


def test_the_gradient_of_kl_is_about_as_large_at_any_temperature():
    """That is what tau^2 is for; without it the norm falls to a quarter where tau doubles."""
    torch.manual_seed(0)
    s, t = torch.randn(64, 10, dtype=torch.float64, requires_grad=True), torch.randn(64, 10, dtype=torch.float64)
    norms = [float(torch.autograd.grad(kl(s, t, tau), s)[0].norm()) for tau in (4.0, 8.0, 16.0)]
    assert norms[1] == pytest.approx(norms[0], rel=0.1)
    assert norms[2] == pytest.approx(norms[1], rel=0.05)


@pytest.mark.parametrize(
    "fn", [lambda s, t: kl(s, t, 4.0), mse, l1, lambda s, t: balance(s) + onehot(t), jensen_shannon, agreed_kl]
)
def test_gradients(fn):
    s, t = logits((3, 4, 1)).requires_grad_(), logits((3, 4, 2)).requires_grad_()
    assert gradcheck(fn, (s, t))


def moments(mean, var, running_mean=None, running_var=None):
    running_mean = torch.zeros_like(mean) if running_mean is None else running_mean
    running_var = torch.ones_like(var) if running_var is None else running_var
    return Moments(mean, var, running_mean, running_var)


@pytest.mark.parametrize("form", ["norm", "gaussian_kl"])
def test_bn_statistics_vanish_where_the_batch_has_the_running_statistics(form):
    same = moments(
        torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    )
    assert bn_statistics([same, same], form).abs() < 1e-6


def test_bn_statistics_norms_grow_linearly_and_average_over_layers():
    one = moments(torch.tensor([3.0, 4.0]), torch.ones(2))
    two = moments(torch.tensor([6.0, 8.0]), torch.ones(2))
    assert bn_statistics([one]).item() == pytest.approx(5.0)
    assert bn_statistics([two]).item() == pytest.approx(10.0)
    assert bn_statistics([one, two]).item() == pytest.approx(7.5)
    assert bn_statistics([one, two], over="sum").item() == pytest.approx(15.0)


def test_gaussian_kl_known_value():
    m = moments(torch.tensor([2.0]), torch.tensor([1.0]))
    assert bn_statistics([m], "gaussian_kl").item() == pytest.approx(2.0, rel=1e-4)


def test_channel_divergence_is_of_each_channel():
    m = moments(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 2.0]))
    expected = torch.tensor([2.0, 0.5 * (2 - 1 - math.log(2))])
    assert torch.allclose(channel_divergence(m), expected, rtol=1e-4)


def test_entropy_known_values():
    assert entropy(torch.full((3, 8), 1 / 8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.eye(4)).item() == 0.0
    assert entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).item() == pytest.approx(math.log(2) / 2)


@given(shapes, st.floats(0.5, 20))
def test_the_divergence_from_targets_is_cross_entropy_less_their_entropy(shape, tau):
    t, y = logits(shape).requires_grad_(), torch.softmax(logits((*shape[:2], shape[2] + 1)), 1)
    cross_entropy = -(y * torch.log_softmax(t / tau, 1)).sum(1).mean()
    found = target_kl(t, y, tau)
    assert found >= -1e-12
    assert torch.allclose(found, cross_entropy - entropy(y), atol=1e-10)
    grads = [torch.autograd.grad(loss, t)[0] for loss in (found, cross_entropy)]
    assert torch.allclose(*grads, atol=1e-12)
    assert target_kl(tau * y.log(), y, tau).abs() < 1e-10
    assert target_kl(tau * y.log(), y, tau, exchanged=True).abs() < 1e-6


def test_targets_may_be_certain():
    y = torch.eye(3, dtype=torch.float64)
    t = torch.tensor([[1.0, 0.0, 0.0]] * 3, dtype=torch.float64, requires_grad=True)
    z = math.log(math.e + 2)
    assert target_kl(t, y).item() == pytest.approx(z - 1 / 3)
    target_kl(t, y).backward()
    assert t.grad.isfinite().all()
    assert target_kl(t, y, exchanged=True).isfinite()
    # The arguments matter: a certain output is near a vague target one way and not the other.
    sure, vague = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    assert target_kl(sure, vague).item() > 3
    assert target_kl(sure, vague, exchanged=True).item() < 0.7


def test_feature_size_known_values():
    f = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    assert feature_size(f).item() == 1.0
    assert feature_size(f, "sum").item() == 2.0
    assert feature_size(f.view(2, 2, 1, 1)).item() == 1.0


def test_total_variation_known_values():
    flat, stripes = torch.full((2, 3, 4, 4), 0.7), torch.tensor([0.0, 1.0]).repeat(4, 2)[None, None]
    assert total_variation(flat).item() == 0.0
    assert total_variation(stripes).item() == 1.0
    assert total_variation(stripes.transpose(2, 3)).item() == 1.0


def test_distance_from_the_mean_known_values():
    mean = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    images = torch.stack([torch.full((3, 3), 0.5), torch.full((3, 3), 0.75)])[None]
    assert distance_from_mean(images, mean).item() == 0.125
    assert distance_from_mean(mean.expand(4, 2, 5, 6), mean).item() == 0.0


def test_the_divergence_of_two_gaussians_whose_deviations_differ():
    one = Moments(torch.zeros(1), torch.tensor([2.0]), torch.zeros(1), torch.ones(1))
    assert bn_statistics([one], "gaussian_kl").item() == pytest.approx(0.5 * (2 - 1 - math.log(2)), rel=1e-4)
