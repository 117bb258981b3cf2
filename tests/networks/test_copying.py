"""One copy function for other people's networks, whatever they keep on themselves."""

import threading

import pytest
import torch
from helpers.networks import tiny_network
from torch import nn

from dreamstill.engine.ema import Ema
from dreamstill.errors import InputError
from dreamstill.networks import cost
from dreamstill.networks.network import Network, copied, materialise, plain_copy

FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}


class Keeping(nn.Module):
    """Keeps what it computed, in an attribute and deep inside another."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.seen = {"last": []}

    def forward(self, x):
        self.features = self.linear(x.flatten(1))
        self.seen["last"] = [self.features]
        return self.features


def old_weight_norm():
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 4)))


def scripted():
    return torch.jit.trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4)).eval(),
                           torch.rand(2, 1, 8, 8))  # fmt: skip


def parametrised():
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 4)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [Keeping, old_weight_norm, scripted, parametrised], ids=lambda f: f.__name__)
def test_a_network_that_has_run_is_copied_and_answers_the_same(make):
    network = Network(make(), **FACTS).eval()
    images = torch.rand(3, 1, 8, 8)
    expected = network(images)
    for other in (copied(network), plain_copy(network), Ema(network, 10).network):
        assert torch.equal(other(images), expected)
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in network.parameters()}
    learning = copied(network)
    assert all(p.is_leaf for p in learning.parameters())
    assert [p.requires_grad for p in learning.parameters()] == [p.requires_grad for p in network.parameters()]
    learning(images).sum().backward()
    assert all(p.grad is not None for p in learning.parameters())
    assert cost.count(network, 1, (8, 8)).params == sum(p.numel() for p in network.parameters())


def test_what_was_kept_stays_one_tensor_and_shared_weights_stay_shared():
    network = Keeping()
    network.head = nn.Linear(64, 4)
    network.head.weight = network.linear.weight
    with torch.inference_mode():
        network(torch.rand(2, 1, 8, 8))
    other = copied(network)
    assert other.features is other.seen["last"][0]
    assert other.features is not network.features
    assert other.head.weight is other.linear.weight
    assert not other.features.is_inference()


def test_what_cannot_be_copied_is_said():
    network = tiny_network((3, 4), 0)
    network.module.guard = threading.Lock()
    with pytest.raises(InputError, match=r"convnet cannot be copied \(TypeError: cannot pickle .*lock"):
        plain_copy(network)


def test_layers_without_a_shape_get_it_from_the_images():
    network = Network(nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4)), **FACTS)
    materialise(copied(network))
    network.train()
    materialise(network)
    assert network.training
    assert network.module[3].weight.shape == (4, 108)
    assert torch.equal(network.module[1].running_mean, torch.zeros(3))
    with pytest.raises(InputError, match=r"fails on blank ones of 1 x 8 x 8 .*Kernel size can't be greater"):
        materialise(Network(nn.Sequential(nn.LazyConv2d(3, 11)), **FACTS))
