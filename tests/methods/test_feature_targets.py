"""What is read off a teacher's weights, and what is drawn from it."""

import pytest
import torch
from helpers.networks import tiny_network
from torch import nn

from dreamstill.errors import InputError
from dreamstill.methods.parts import soft_targets
from dreamstill.networks import builtin
from dreamstill.networks.network import Network


def network(name, image_size=32, channels=3, **kwargs):
    module = builtin.build(name, num_classes=10, channels=channels, image_size=image_size, **kwargs)
    return Network(module, num_classes=10, image_size=image_size, channels=channels).eval()


def test_a_unit_is_a_row_of_the_weight():
    rows = soft_targets.unit_rows(nn.Linear(120, 84).weight)
    r = rows @ rows.T
    assert r.shape == (84, 84)
    assert torch.allclose(r.diag(), torch.ones(84), atol=1e-6)
    w = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-6.0, -8.0]])
    expected = torch.tensor([[1.0, 0.8, -1.0], [0.8, 1.0, -0.8], [-1.0, -0.8, 1.0]])
    rows = soft_targets.unit_rows(w)
    assert torch.allclose(rows @ rows.T, expected, atol=1e-6)
    assert soft_targets.unit_rows(nn.Conv2d(3, 5, 3).weight).shape == (5, 27)


def test_a_dead_unit_stays_zero():
    rows = soft_targets.unit_rows(torch.tensor([[0.0, 0.0], [1e-20, 0.0], [1.0, 0.0]]))
    assert rows.isfinite().all()
    assert rows[0].abs().sum() == 0
    assert rows[1].abs().sum() < 1e-10


def test_the_covariance_of_draws_is_sigma_times_the_correlation():
    generator = torch.Generator().manual_seed(0)
    rows = soft_targets.unit_rows(torch.randn(84, 120, generator=generator))
    a = 1.5**0.5 * torch.randn(200_000, 120, generator=generator) @ rows.T
    found = a.T @ a / len(a)
    assert (found - 1.5 * rows @ rows.T).abs().max() < 0.02
    assert (found.diag() - 1.5).abs().max() < 0.02


def test_a_correlation_without_full_rank_is_drawn_from_all_the_same():
    rows = soft_targets.unit_rows(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.linalg.matrix_rank(rows @ rows.T) == 6
    a = torch.randn(50_000, 6, generator=torch.Generator().manual_seed(1)) @ rows.T
    assert (a.T @ a / len(a) - rows @ rows.T).abs().max() < 0.04


def test_zskd_draws_the_wrong_class_often():
    torch.manual_seed(0)
    weight = torch.randn(10, 84)  # random heads: 44 % and 53 % at the two concentrations were measured for width 84
    similar = soft_targets.concentrations(weight)
    assert similar.shape == (10, 10)
    assert similar.amin(1).abs().max() == 0
    assert torch.allclose(similar.diag(), torch.ones(10))
    drawn, classes = soft_targets.dirichlet_targets(similar, 4000)
    assert torch.allclose(drawn.sum(1), torch.ones(4000), atol=1e-5)
    assert (drawn >= 0).all()
    assert torch.bincount(classes).tolist() == [400] * 10
    mismatch = (drawn.argmax(1) != classes).double().mean()
    assert 0.2 < mismatch < 0.7
    one, tenth = (torch.arange(4000) // 10 % 2 == i for i in (0, 1))
    assert drawn[tenth].amax(1).mean() > drawn[one].amax(1).mean() + 0.1  # the smaller concentration is the surer


def test_shares():
    y = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.8, 0.1, 0.1], [1.0, 0.0, 0.0]])
    assert soft_targets.shares(y).tolist() == [0.75, 0.25, 0.0]


@pytest.mark.parametrize(
    ("name", "layer", "follows", "pooled", "units"),
    [
        ("lenet5", "hidden", "linear", False, 84),
        ("lenet5_bn_half", "hidden", "linear", False, 42),
        ("wrn_16_1", "groups.2.1.conv2", "linear", True, 64),
        # Not the shortcut, though it is calculated later.
        ("resnet8", "stages.2.0.conv2", "linear", True, 64),
        ("wrn_10_1", "groups.2.0.conv2", "linear", True, 64),
        ("resnet20", "stages.2.2.conv2", "linear", True, 64),
        ("vgg8", "stages.4.0.0", "linear", True, 512),
    ],
)
def test_the_modelled_layer(name, layer, follows, pooled, units):
    found = soft_targets.modelled_layer(network(name))
    assert (found.name, found.next, found.pooled) == (layer, follows, pooled)
    assert soft_targets.unit_rows(found.module.weight).shape[0] == units


def test_alexnet_has_a_second_hidden_layer():
    made = network("alexnet", width=0.02)
    assert soft_targets.modelled_layer(made).name == "fc2.0"
    assert soft_targets.features(made) == "fc2.0:input"
    assert soft_targets.modelled_layer(made, "fc1.0").next == "fc2.0"
    assert soft_targets.features(tiny_network((3, 4), 0)) == "linear:input"


def test_layers_that_cannot_be_modelled():
    made = network("lenet5")
    with pytest.raises(InputError, match="'nope': it has conv1"):
        soft_targets.modelled_layer(made, "nope")
    with pytest.raises(InputError, match="no linear layer follows"):
        soft_targets.modelled_layer(made, "linear")
    with pytest.raises(InputError, match=r"conv1\.0 has 6 units and hidden takes 120"):
        soft_targets.modelled_layer(made, "conv1.0")
    with pytest.raises(InputError, match=r"no linear layer 'conv1\.0'"):
        soft_targets.linear(made, "conv1.0")
    flat = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 4))
    with pytest.raises(InputError, match="the 108 units that 2 takes: name a layer, or take space softmax"):
        soft_targets.modelled_layer(Network(flat, num_classes=4, image_size=8, channels=1))
    bare = Network(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), num_classes=4, image_size=8, channels=1)
    with pytest.raises(InputError, match="no linear layer to read classes off"):
        soft_targets.classifier(bare)


def test_small_batches_together_have_all_classes_and_both_concentrations_alike_often():
    torch.manual_seed(0)
    similar = soft_targets.concentrations(torch.randn(7, 5))
    asked = torch.cat([soft_targets.dirichlet_targets(similar, 5, 5 * i)[1] for i in range(28)])
    assert asked.bincount().tolist() == [20] * 7
    # A batch of as many draws as classes: by turns of the blunt and of the sharp concentration.
    blunt, sharp = (
        soft_targets.dirichlet_targets(torch.ones(50, 50), 50, first)[0].amax(1).mean() for first in (0, 50)
    )
    assert sharp > 2 * blunt
