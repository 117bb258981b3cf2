"""Losses of the conditional GAN: exact values and who is pushed where."""

import math

import pytest
import torch
import torch.nn.functional as F

from dreamstill.losses import gan


def test_hinge():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert gan.hinge_d(real, fake).item() == pytest.approx(0.25 + 0.75)
    assert gan.hinge_g(fake).item() == pytest.approx(1.25)
    assert gan.hinge_d(torch.tensor([1.0]), torch.tensor([-1.0])) == 0


def test_two_way_classes_count_real_even_and_made_odd():
    y = torch.tensor([0, 1])
    sure = 50.0
    real, fake = F.one_hot(2 * y, 4) * sure, F.one_hot(2 * y + 1, 4) * sure
    assert gan.two_way_d(real, y, fake, y).item() == pytest.approx(0, abs=1e-6)
    assert gan.two_way_d(fake, y, real, y).item() == pytest.approx(2 * sure)
    # The generator is best off where its images are taken for real ones of their class.
    assert gan.two_way_g(real, y).item() == pytest.approx(-sure)
    assert gan.two_way_g(fake, y).item() == pytest.approx(sure)
    assert gan.two_way_g(torch.zeros(2, 4), y) == 0


def test_feature_distance_is_not_squared():
    guess, teacher = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert gan.feature_distance(guess, teacher).item() == pytest.approx(2.5)
    guess = torch.zeros(2, 2, requires_grad=True)
    gan.feature_distance(guess, teacher).backward()  # at zero distance: no NaN
    assert guess.grad.isfinite().all()


def test_weights_of_rare_classes_rise():
    equal = gan.frequency_weights(torch.full((4,), 50.0))
    assert torch.allclose(equal, torch.ones(4))
    skewed = gan.frequency_weights(torch.tensor([300.0, 100.0]))
    assert torch.allclose(skewed, torch.tensor([0.5, 1.5]))
    effective = gan.frequency_weights(torch.tensor([1.0, 2.0]), 0.99)
    assert torch.allclose(effective, torch.tensor([1.99, 1.0]) / 2.99 * 2, atol=1e-4)
    # The effective number no longer tells frequent classes apart.
    assert torch.allclose(gan.frequency_weights(torch.tensor([1e4, 1e3]), 0.99), torch.ones(2), atol=1e-3)


def test_smoothing():
    flat, sure = torch.zeros(6, 4), F.one_hot(torch.zeros(6, dtype=torch.long), 4) * 100.0
    ones = torch.ones(4)
    assert gan.frequency_smoothing(flat, ones).item() == pytest.approx(-math.log(4))
    assert gan.frequency_smoothing(sure, ones).item() == pytest.approx(0, abs=1e-4)  # and no NaN
    weights = torch.tensor([0.4, 1.6])
    logits = torch.tensor([[0.0, 0.0]])
    assert gan.frequency_smoothing(logits, weights).item() == pytest.approx(-math.log(2))
    # Minimising it moves the batch towards the class that weighs more.
    logits = torch.zeros(3, 4, requires_grad=True)
    gan.frequency_smoothing(logits, torch.tensor([0.4, 1.6, 1.0, 1.0])).backward()
    assert (logits.grad[:, 1] < 0).all()
    assert (logits.grad[:, 0] > 0).all()
    # q log q falls only up to q = 1/e: a class that already has half of the batch is pushed back, however it weighs.
    logits = torch.zeros(3, 2, requires_grad=True)
    gan.frequency_smoothing(logits, weights).backward()
    assert (logits.grad[:, 1] > 0).all()
    far = torch.tensor([[200.0, 0.0]], requires_grad=True)
    gan.frequency_smoothing(far, ones[:2]).backward()
    assert far.grad.isfinite().all()
