"""Somebody's network in channels_last, if it takes that."""

import pytest
import torch
from helpers.networks import tiny_network
from torch import nn

from dreamstill.engine.placing import place
from dreamstill.networks.network import Network

FACTS = {"num_classes": 4, "image_size": 8, "channels": 3, "mean": [0.3] * 3, "std": [0.4] * 3}
CPU = torch.device("cpu")


class Tutorial(nn.Module):
    """Flattens by view, as many a first network does."""

    def __init__(self, when="always"):
        super().__init__()
        self.convolution, self.linear, self.when = nn.Conv2d(3, 5, 3), nn.Linear(180, 4), when

    def forward(self, x):
        x = self.convolution(x)
        by_view = self.when == "always" or (self.when == "in training" and self.training)
        return self.linear(x.view(len(x), -1) if by_view else x.flatten(1))


class OnPixels(nn.Module):
    """Flattens the images themselves by view, or reads their memory as it lies."""

    def __init__(self, strided=False):
        super().__init__()
        self.linear, self.strided = nn.Linear(192, 4), strided

    def forward(self, x):
        return self.linear(x.as_strided((len(x), 192), (192, 1)) if self.strided else x.view(len(x), 192))


class Volumes(nn.Module):
    """Holds a weight that has no channels_last."""

    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv3d(1, 2, 3), nn.Linear(2 * 36, 4)

    def forward(self, x):
        return self.linear(self.convolution(x[:, None]).flatten(1))


def of_a_generator():
    """Images as a generator's convolutions leave them."""
    return torch.rand(4, 3, 8, 8, requires_grad=True).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("module", "trained"),
    [
        (Tutorial(), False), (Tutorial(), True), (Tutorial("in training"), True), (OnPixels(), False),
        (OnPixels(strided=True), False), (Volumes(), False),
    ],
)  # fmt: skip
def test_code_that_needs_contiguous_tensors_runs(module, trained):
    network = Network(module, **FACTS).train(trained)
    images = of_a_generator()
    expected = network(images.detach().contiguous())
    place(network, CPU, torch.float32, trained)
    assert network.contiguous
    logits = network(images)
    assert torch.allclose(logits, expected)
    logits.sum().backward()


@pytest.mark.parametrize("module", [Tutorial("never"), Tutorial("in training")])
def test_others_go_into_channels_last_and_nothing_else_changes(module):
    network = Network(module, **FACTS)
    stream, before = torch.get_rng_state(), {k: v.clone() for k, v in network.state_dict().items()}
    place(network, CPU, torch.float32, trained=False)
    assert not network.contiguous
    assert module.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_a_network_that_fails_in_any_format_is_left_to_the_run():
    network = tiny_network((3, 4), 0)
    network.module.linear = nn.Linear(1, 1)
    place(network, CPU, torch.float32, trained=True)
    assert not network.contiguous
