"""Scores on hand-made logits, held against values worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import tiny_network
from torch import nn

from dreamstill.data.image_set import ImageSet
from dreamstill.errors import InputError
from dreamstill.networks.predict import predict
from dreamstill.tasks import metrics

# Predictions 0, 1, 1, 2 of labels 0, 1, 0, 2.
LOGITS = torch.tensor([[5.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 5.0, 0, 0], [0, 0, 5.0, 0]])
LABELS = torch.tensor([0, 1, 0, 2])


def images(n=10, labels=None):
    pixels = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, labels, tuple("abcd"), "mine", "test")


def test_accuracy_confusion_and_classes():
    scores = metrics.score(LOGITS, LABELS)
    assert scores["accuracy"] == 0.75
    assert scores["confusion"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]  # row: label
    assert scores["per_class"] == [0.5, 1.0, 1.0, None]  # the last class has no image


def test_likelihood_and_brier_score():
    scores = metrics.score(LOGITS, LABELS)
    sure = math.exp(5) / (math.exp(5) + 3)
    unsure = 1 / (math.exp(5) + 3)
    assert scores["nll"] == pytest.approx(-(3 * math.log(sure) + math.log(unsure)) / 4, rel=1e-5)
    right = (1 - sure) ** 2 + 3 * unsure**2
    wrong = sure**2 + (1 - unsure) ** 2 + 2 * unsure**2
    assert scores["brier"] == pytest.approx((3 * right + wrong) / 4, rel=1e-5)


def test_calibration_error():
    """Confidences 0.9, 0.9 (one right) and 0.6 (right): |0.5 - 0.9| in one bin with 2 of 3, |1 - 0.6| with 1 of 3."""
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert metrics.score(probs.log(), torch.tensor([0, 1, 1]))["ece"] == pytest.approx(0.4, abs=1e-6)


def test_logits_between_0_and_1_are_not_taken_for_probabilities():
    logits = torch.tensor([[0.2, 0.9], [0.9, 0.1]])
    shifted = metrics.score(logits + 5, torch.tensor([1, 0]))
    assert metrics.score(logits, torch.tensor([1, 0]))["ece"] == pytest.approx(shifted["ece"], abs=1e-6)


def test_agreement():
    other = LOGITS.clone()
    other[0] = torch.tensor([0, 9.0, 0, 0])
    assert metrics.agreement(LOGITS, other) == 0.75
    assert metrics.agreement(LOGITS, 3 * LOGITS) == 1.0


def test_shares_and_their_evenness():
    shares = metrics.class_shares(torch.tensor([0, 0, 2, 0]), 4)
    assert shares.tolist() == [0.75, 0.0, 0.25, 0.0]
    assert metrics.evenness(shares) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4))
    assert metrics.evenness(torch.full((4,), 0.25)) == pytest.approx(1.0)
    assert metrics.evenness(torch.tensor([0.0, 1.0])) == 0.0


def test_a_set_of_another_task():
    with pytest.raises(InputError, match="labels up to 5 and the network has 4 classes"):
        metrics.score(LOGITS, torch.tensor([0, 5, 0, 0]))
    with pytest.raises(InputError, match="labels up to 3 and the network has 3"):
        metrics.check_labels(torch.tensor([0, 3]), 3)
    metrics.check_labels(torch.tensor([0, 3]), 4)


def test_predictions_are_those_of_the_network_in_eval_mode():
    network = tiny_network((3, 4), 0).double()  # in float64, where the split into batches is no matter of rounding
    pixels = images(10).pixels
    with torch.no_grad():
        direct = network(pixels.double() / 255.0).float()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.train()
    network.module.blocks[0][1].eval()  # a part that somebody froze
    modes = [m.training for m in network.modules()]
    for batch_size in (3, 10, 100):
        got = predict(network, pixels, batch_size)
        assert got.dtype == torch.float32
        assert torch.allclose(got, direct, atol=1e-6)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_mode_is_put_back_when_the_network_fails():
    class Failing(nn.Linear):
        def forward(self, x):
            raise RuntimeError("no")

    network = Failing(1, 1).train()
    with pytest.raises(RuntimeError, match="no"):
        predict(network, images(1).pixels)
    assert network.training


def test_the_network_chooses_the_precision():
    network = tiny_network((3, 4), 0)
    single = predict(network, images(4).pixels)
    double = predict(network.double(), images(4).pixels)
    assert double.dtype == torch.float32
    assert torch.allclose(single, double, atol=1e-5)


def test_a_network_of_buffers_only():
    class Stored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))

        def forward(self, x):
            return x.flatten(1) @ self.weight

    pixels = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    network = Stored().double()
    assert torch.allclose(predict(network, pixels), network(pixels.double() / 255).float())


def test_evaluate_puts_it_together():
    student, teacher = tiny_network((3, 4), 0), tiny_network((6, 8), 1)
    labels = torch.arange(10) % 4
    result = metrics.evaluate(student, images(10, labels), teacher)
    ours, theirs = (predict(n, images(10).pixels) for n in (student, teacher))
    assert result["accuracy"] == metrics.score(ours, labels)["accuracy"]
    assert result["teacher"] == metrics.score(theirs, labels)
    assert result["agreement"] == metrics.agreement(ours, theirs)
    assert metrics.evaluate(student, images(10), student) == {"agreement": 1.0}
    assert metrics.evaluate(student, images(10)) == {}
    with pytest.raises(InputError, match="5 and 4 classes"):
        metrics.evaluate(student, images(10), tiny_network((3, 4), 0, num_classes=5))


def test_images_that_reach_beyond_what_can_be_stored():
    network = tiny_network((4, 6), 0).double()
    pixels = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8)
    assert torch.allclose(predict(network, pixels), predict(network, pixels.double() / 255), atol=1e-6)
    beyond = pixels.double() / 255 * 3 - 1
    with torch.no_grad():
        assert torch.allclose(predict(network, beyond, batch_size=4), network(beyond).float(), atol=1e-6)


def test_calibration_is_in_fifteen_bins():
    """Confidences 0.81 (wrong) and 0.89 (right) lie in two of fifteen bins; in one of ten they would even out."""
    probs = torch.tensor([[0.81, 0.19], [0.89, 0.11]])
    found = metrics.score(probs.log(), torch.tensor([1, 0]))["ece"]
    assert found == pytest.approx((0.81 + 0.11) / 2, abs=1e-5)


def test_the_spread_within_a_class_is_that_of_its_pairs():
    right = torch.tensor([[1.0, 0], [0, 2], [3, 0], [0, 1]])
    classes = torch.tensor([0, 0, 1, 2])
    assert metrics.within_class_spread(right, classes) == pytest.approx(1)  # at right angles; two classes have no pair
    assert metrics.within_class_spread(right[[0, 2, 1, 3]], torch.tensor([5, 5, 3, 3])) == pytest.approx(0, abs=1e-12)
    assert metrics.within_class_spread(right, torch.arange(4)) is None
    features, classes = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    pairs = [
        [1 - F.cosine_similarity(features[i], features[j], dim=0) for i in m for j in m if i < j]
        for m in (range(c, 40, 3) for c in range(3))
    ]
    expected = sum(sum(p) / len(p) for p in pairs) / 3
    assert metrics.within_class_spread(features, classes) == pytest.approx(float(expected), rel=1e-5)
