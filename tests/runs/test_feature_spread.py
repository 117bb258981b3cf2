"""How much the images of a class differ, made ones beside real ones, at the end of a run."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import tiny_network
from torch import nn

from dreamstill.data.image_set import ImageSet
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.runs.feature_spread import feature_spread


def finished(teacher, images, pixels=None, task="classification"):
    test = None if pixels is None else ImageSet(pixels, None, tuple("abcd"), "mine", "test")
    inputs = SimpleNamespace(given=SimpleNamespace(teacher=teacher), test=test)
    engine = SimpleNamespace(task=SimpleNamespace(name=task))
    return SimpleNamespace(plan=SimpleNamespace(inputs=inputs), engine=engine, images=images)


def by_hand(teacher, images):
    """The mean over classes of 1 - cos over all pairs, of what enters the classifier."""
    with torch.no_grad():
        features = []
        hook = teacher.module.linear.register_forward_pre_hook(lambda _, x: features.append(x[0]))
        classes = teacher(images).argmax(1)
        hook.remove()
    means = []
    for c in classes.unique():
        f = F.normalize(features[0][classes == c], dim=1)
        n = len(f)
        if n > 1:
            means.append((1 - f @ f.T)[~torch.eye(n, dtype=torch.bool)].mean())
    return float(torch.stack(means).mean())


def test_it_is_that_of_the_made_images_and_of_as_many_real_ones():
    teacher = tiny_network((6, 8), 0)
    draw = torch.Generator().manual_seed(1)
    made = torch.rand(300, 1, 8, 8, generator=draw)
    pixels = torch.randint(256, (599, 1, 8, 8), dtype=torch.uint8, generator=draw)
    found = feature_spread(finished(teacher, made, pixels))["spread"]
    assert found["made"] == pytest.approx(by_hand(teacher, made), rel=1e-4)
    assert found["real"] == pytest.approx(by_hand(teacher, to_float(pixels[::2])), rel=1e-4)
    assert not any(m._forward_pre_hooks for m in teacher.modules())  # the run's own teacher is left alone


def test_without_labelled_images_there_is_nothing_to_compare_with():
    found = feature_spread(finished(tiny_network((6, 8), 0), torch.rand(40, 1, 8, 8)))
    assert found["spread"]["real"] is None
    assert found["spread"]["made"] > 0


class Aside(nn.Module):
    """Has a linear layer that its forward pass leaves out."""

    def __init__(self):
        super().__init__()
        self.body, self.linear = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 16))), nn.Linear(3, 3)

    def forward(self, x):
        return self.body(x).sum(2)


@pytest.mark.parametrize("module", [Aside(), nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 16)), nn.AvgPool1d(16))])
def test_a_teacher_without_features_has_no_spread(module):
    teacher = Network(module, num_classes=4, image_size=8, channels=1, mean=[0.3], std=[0.4])
    assert feature_spread(finished(teacher, torch.rand(20, 1, 8, 8))) == {}


def test_maps_have_no_spread():
    assert feature_spread(finished(tiny_network((6, 8), 0), torch.rand(20, 1, 8, 8), task="segmentation")) == {}
