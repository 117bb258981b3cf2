"""Supervised training's own parts; whole runs are in the tests of the command line and of segmentation."""

import pytest
import torch

from dreamstill.data import VOID
from dreamstill.training import class_weights


def test_rare_classes_weigh_more_by_the_median_share():
    labels = torch.tensor([0] * 8 + [1] * 4 + [2] * 2)
    assert class_weights(labels, 4, "median", torch.float32).tolist() == [0.5, 1.0, 2.0, 0.0]  # the fourth never occurs
    root = class_weights(labels, 4, "root", torch.float64)
    assert root.tolist() == pytest.approx([0.5**0.5, 1.0, 2.0**0.5, 0.0])
    assert class_weights(labels, 4, "none", torch.float32) is None


def test_void_is_no_class_when_shares_are_counted():
    labels = torch.full((100, 4, 4), VOID, dtype=torch.uint8)
    labels[:, 0, 0], labels[:, 0, 1:3] = 0, 1
    assert class_weights(labels, 2, "median", torch.float32).tolist() == [1.0, 0.5]
