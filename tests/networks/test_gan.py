"""The conditional GAN's networks: sizes and counts of the released ones, spectral norm, the average."""

import copy

import pytest
import torch
from helpers.networks import tiny_network
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks.gan import ConditionalGenerator, Discriminator, SpectralNorm, doublings, follow
from dreamstill.networks.network import Network


def sized(image_size, num_classes=10, channels=3):
    return Network(nn.Identity(), num_classes=num_classes, image_size=image_size, channels=channels)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_the_released_networks():
    """4.304 M (10 classes) and 4.581 M (100) of the generator, 4.20 M of the discriminator's trunk."""
    assert count(ConditionalGenerator(sized(32), 128, 64)) == 4_304_387
    assert round(count(ConditionalGenerator(sized(32, 100), 128, 64)) / 1e6, 3) == 4.581
    discriminator = Discriminator(sized(32), 512, 64)
    assert count(discriminator.blocks) == 4_204_544
    # Only the heads that take part: real or made, 2k classes, and 256 to 1024 to 512 features.
    heads = (256 + 1) + (256 * 20 + 20) + (256 * 1024 + 1024) + (1024 * 512 + 512)
    assert count(discriminator) - count(discriminator.blocks) == heads


def test_the_64_pixel_table():
    generator, discriminator = ConditionalGenerator(sized(64), 8, 4), Discriminator(sized(64), 6, 4)
    assert [(b.conv1.in_channels, b.conv1.out_channels) for b in generator.blocks] == [
        (64, 64),
        (64, 32),
        (32, 16),
        (16, 8),
    ]
    shape = [(b.conv1.in_channels, b.conv1.out_channels, b.down) for b in discriminator.blocks]
    assert shape == [(3, 4, True), (4, 8, True), (8, 16, True), (16, 32, True), (32, 64, False)]


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, (8, 12)])
def test_images_of_many_sizes(size):
    network = sized(size, num_classes=3, channels=1)
    images = ConditionalGenerator(network, 5, 2)(torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))
    assert images.shape == (4, 1, *network.image_size)
    assert images.min() >= 0
    assert images.max() <= 1
    d, a, r = Discriminator(network, 7, 2)(images)
    assert (d.shape, a.shape, r.shape) == ((4,), (4, 6), (4, 7))


def test_the_map_of_32_pixels_goes_to_16_8_8_8():
    discriminator, sides = Discriminator(sized(32), 6, 2), []
    for block in discriminator.blocks:
        block.register_forward_hook(lambda m, i, o: sides.append(o.shape[-1]))
    discriminator(torch.rand(2, 3, 32, 32))
    assert sides == [16, 8, 8, 8]


@pytest.mark.parametrize("size", [4, 9, 31, 256])
def test_sizes_that_cannot_be_doubled_to(size):
    with pytest.raises(InputError, match="cannot make"):
        doublings((size, size))


def test_the_spectral_norm_is_the_largest_singular_value():
    torch.manual_seed(0)
    layer = nn.Linear(30, 20)
    weight = layer.weight.detach().clone()
    nn.utils.parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    for _ in range(200):
        normed = layer.weight
    exact = torch.linalg.matrix_norm(weight, 2)
    assert torch.allclose(normed, weight / exact, rtol=1e-4)
    # The gradient is that of W / sigma(W): none along W itself.
    layer.weight.square().sum().backward()
    original = layer.parametrizations.weight.original
    assert abs((original.grad * original).sum()) < 1e-3 * original.grad.norm() * original.norm()


def test_power_iterations_only_in_train_mode_and_in_the_state():
    discriminator = Discriminator(tiny_network((6, 8), 0), 8, 2)
    images = torch.rand(4, 1, 8, 8)
    before = copy.deepcopy(discriminator.state_dict())
    assert [k for k in before if k.endswith(".u")]
    with torch.no_grad():
        discriminator.eval()(images)
        same = [torch.equal(v, before[k]) for k, v in discriminator.state_dict().items()]
        assert all(same)
        discriminator.train()(images)
    changed = {k for k, v in discriminator.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.endswith((".u", ".v")) for k in changed)


def test_the_class_changes_the_image_through_the_norms():
    generator = ConditionalGenerator(tiny_network((6, 8), 0), 5, 2).eval()
    z = torch.randn(3, 5)
    a, b = generator(z, torch.zeros(3, dtype=torch.long)), generator(z, torch.ones(3, dtype=torch.long))
    assert not torch.allclose(a, b)
    (a.sum() + b.sum()).backward()
    gain = generator.blocks[0].norm1.gain.weight
    assert gain.grad[:2].abs().sum(1).gt(0).all()
    assert gain.grad[2:].abs().sum() == 0


def test_gains_start_near_one():
    gain = ConditionalGenerator(sized(32), 8, 16).blocks[0].norm1.gain.weight
    assert abs(gain.mean() - 1) < 0.01
    assert abs(gain.std() - 0.02) < 0.005


def test_the_average_follows_and_copies_the_power_vectors():
    torch.manual_seed(0)
    network = tiny_network((6, 8), 0)
    average, live = ConditionalGenerator(network, 5, 2), ConditionalGenerator(network, 5, 2)
    before = copy.deepcopy(average.state_dict())
    follow(average, live, 0.25)
    for name, value in average.state_dict().items():
        theirs = live.state_dict()[name]
        if name.endswith((".u", ".v")):
            assert torch.equal(value, theirs)
        elif value.is_floating_point():
            assert torch.allclose(value, before[name] + 0.25 * (theirs - before[name]), atol=1e-6)
    follow(average, live, 1.0)
    assert all(torch.allclose(v, live.state_dict()[k]) for k, v in average.state_dict().items())


def test_the_discriminator_sees_images_around_zero():
    discriminator, seen = Discriminator(tiny_network((6, 8), 0), 6, 2), []
    discriminator.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 1, 8, 8)
    discriminator(x)
    assert torch.equal(seen[0], 2 * x - 1)
