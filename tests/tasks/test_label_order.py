"""A scored network near chance, or whose answers fit another order of the labels."""

import pytest
import torch

from dreamstill.tasks.label_order import suspicion


def confusion(k, answers, right=0.95, each=100):
    """A network that answers ``answers[label]`` for most images of a label, and the next class for the others."""
    counts = torch.zeros(k, k, dtype=torch.long)
    for label, answer in enumerate(answers):
        counts[label, answer] += round(right * each)
        counts[label, (answer + 1) % k] += each - round(right * each)
    return counts.tolist()


NAMES = tuple("abcdefghijkl")


def test_another_order_is_found_and_named():
    k = 12
    order = sorted(range(k), key=str)  # as texts: 0, 1, 10, 11, 2, ...
    said = suspicion("teacher", confusion(k, [order.index(i) for i in range(k)]), NAMES)
    assert "the teacher scores 16." in said or "the teacher scores 15." in said
    assert "95.00% with the labels in another order (it answers c as class 4" in said
    assert "classes.txt" in said


@pytest.mark.parametrize(("k", "accuracy", "warned"), [
    (10, 0.096, True), (10, 0.18, True), (10, 0.25, False), (2, 0.52, True), (2, 0.6, False), (100, 0.02, True),
    (100, 0.05, False), (1000, 0.0025, True), (1000, 0.01, False),
])  # fmt: skip
def test_near_chance(k, accuracy, warned):
    counts = torch.full((k, k), (1 - accuracy) * 10000 / (k - 1) / k)
    counts.diagonal().fill_(accuracy * 10000 / k)
    said = suspicion("network", counts.tolist(), ())
    assert (said is not None) == warned
    assert said is None or f"the network scores {accuracy:.2%} where chance is {1 / k:.2%}" in said


def test_a_good_network_and_too_few_images_are_no_reason():
    assert suspicion("teacher", confusion(4, range(4)), NAMES) is None
    assert suspicion("teacher", confusion(4, range(4), 0.6), NAMES) is None
    assert suspicion("teacher", confusion(4, (1, 0, 2, 3), each=2), NAMES) is None
    assert suspicion("teacher", confusion(4, (0, 0, 0, 0)), NAMES) is not None  # it answers one class
