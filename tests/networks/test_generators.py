import pytest
import torch
import torch.nn.functional as F
from helpers.networks import make_given, tiny_network

from dreamstill.errors import InputError
from dreamstill.networks import builtin
from dreamstill.networks.generators import ConditionalBatchNorm, Generator, LargeGenerator, UpsampleConv
from dreamstill.networks.network import Network


def network(size=32, classes=10, channels=3):
    module = builtin.build("convnet", num_classes=classes, channels=channels, image_size=size)
    return Network(
        module, num_classes=classes, image_size=size, channels=channels, mean=[0.5] * channels, std=[0.2] * channels
    )


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_the_literature():
    assert count(Generator(network())) == 2_329_091  # DFAD's
    assert count(Generator(network(), condition="ccbn")) == 2_334_911  # CPSC-DFKD's, 10 classes
    assert count(Generator(network(classes=100), condition="ccbn")) == 2_393_051
    assert count(Generator(network(64, 200), condition="ccbn")) == 8_773_683
    # CGDD's, inferred: a label beside the noise is 10 more inputs of the first layer; as a factor, an embedding.
    assert count(Generator(network(), condition="concat")) == 2_329_091 + 10 * 128 * 8 * 8
    assert count(Generator(network(), condition="multiply")) == 2_329_091 + 10 * 256


def test_parameter_counts_of_the_generator_for_large_images():
    convolutions = 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 64) + 9 * 64 * 3 + 3
    norms = 2 * (512 + 256 + 128 + 64 + 64)
    first = 512 * 8 * 8
    assert count(LargeGenerator(network(128))) == 257 * first + convolutions + norms
    assert count(LargeGenerator(network(128, 101), condition="concat")) == 358 * first + convolutions + norms
    assert count(LargeGenerator(network(128, 101), condition="ccbn")) == 257 * first + convolutions + 101 * norms


def test_the_generator_for_large_images_stays_in_range():
    images = LargeGenerator(network(64), nz=16, width=4)(10 * torch.randn(8, 16))
    assert images.shape == (8, 3, 64, 64)
    assert 0 <= images.min() < 0.45
    assert 0.55 < images.max() <= 1
    with pytest.raises(InputError, match="multiples of 16"):
        LargeGenerator(network(24))


def test_output_is_standardised_in_the_teachers_pixels():
    images = Generator(network(), nz=16, width=8)(torch.randn(64, 16))
    assert images.shape == (64, 3, 32, 32)
    assert torch.allclose(images.mean((0, 2, 3)), torch.full((3,), 0.5), atol=1e-3)
    assert torch.allclose(images.std((0, 2, 3), correction=0), torch.full((3,), 0.2), atol=1e-3)


def test_without_its_tanh_the_last_batch_norm_takes_the_convolution_itself():
    torch.manual_seed(0)
    generator = Generator(network(), nz=16, width=8, head="linear")
    caught = []
    generator.conv3.register_forward_hook(lambda module, args, output: caught.append(output))
    with torch.no_grad():
        generator.conv3.weight.mul_(100)  # a tanh would give two values a channel
        images = generator(torch.randn(64, 16))
    standard = (caught[0] - caught[0].mean((0, 2, 3), keepdim=True)) / caught[0].std((0, 2, 3), keepdim=True)
    assert torch.allclose(images, 0.5 + 0.2 * standard, atol=1e-3)
    assert standard.abs().max() > 2


@pytest.mark.parametrize("condition", ["concat", "multiply", "ccbn"])
@pytest.mark.parametrize(("kind", "size"), [(Generator, 8), (LargeGenerator, 16)])
def test_the_class_changes_the_image(condition, kind, size):
    torch.manual_seed(0)
    generator = kind(network(size, 4, 1), nz=8, width=4, condition=condition)
    if condition == "ccbn":
        torch.nn.init.normal_((generator.norm1 if kind is Generator else generator.norms[1]).gain.weight)
    z, y = torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 0])
    assert not torch.allclose(generator(z, y), generator(z, (y + 1) % 4))


def test_conditional_batch_norm_starts_as_a_plain_one_and_each_row_moves_its_class_only():
    torch.manual_seed(0)
    x, y = torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 0, 2, 1, 2])
    norm = ConditionalBatchNorm(3, 3)
    plain = torch.nn.BatchNorm2d(3, eps=1e-3, affine=False)
    before = norm(x, y)
    assert torch.equal(before, plain(x))
    with torch.no_grad():
        norm.gain.weight[1] = 7.0
    changed = (norm(x, y) != before).flatten(1).any(1)
    assert changed.tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize(("h", "w"), [(2, 3), (4, 4), (5, 8)])
def test_doubling_inside_the_convolution_is_doubling_before_it(h, w):
    torch.manual_seed(0)
    layer = UpsampleConv(3, 5).double()
    results = []
    for forward in (layer, lambda x: F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)):
        x = torch.randn(2, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = forward(x)
        weighting = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        grads = torch.autograd.grad((y * weighting).sum(), (x, layer.weight, layer.bias))
        results.append((y, *grads))
    assert results[0][0].shape == (2, 5, 2 * h, 2 * w)
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, rtol=0, atol=1e-12)


def test_redraw_changes_every_weight_and_leaves_the_global_stream_alone():
    from dreamstill.engine import Engine

    engine = Engine(make_given(tiny_network((4,), 0), tiny_network((4,), 0)), device="cpu")
    generator = Generator(engine.given.teacher, nz=8, width=4)
    before = {k: v.clone() for k, v in generator.named_parameters() if v.dim() > 1}
    stream = torch.get_rng_state()
    engine.redraw(generator)
    assert torch.equal(stream, torch.get_rng_state())
    assert all(not torch.equal(v, before[k]) for k, v in generator.named_parameters() if k in before)
    first = generator.linear.weight.clone()
    engine.redraw(generator)
    assert not torch.equal(first, generator.linear.weight)


def test_sides_it_cannot_make():
    with pytest.raises(InputError, match="multiples of 4"):
        Generator(network(30))


def test_the_large_generator_begins_as_dcgan():
    torch.manual_seed(0)
    made = LargeGenerator(network(64), nz=64, width=16)
    for layer in (made.linear, *made.convs, made.conv):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.15)
        assert layer.bias is None or not layer.bias.any()
    scales = torch.cat([norm.weight.detach() for norm in made.norms])
    assert float(scales.mean()) == pytest.approx(1, abs=0.01)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.2)
    factors = LargeGenerator(network(64), nz=64, width=2, condition="multiply").label.factors
    assert float(factors.weight.detach().std()) == pytest.approx(1, rel=0.2)  # the label's own are not of that
    classes = LargeGenerator(network(64), nz=8, width=16, condition="ccbn").norms[0]
    assert float(classes.gain.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert not classes.bias.weight.any()


@pytest.mark.parametrize(("kind", "size"), [(Generator, 8), (LargeGenerator, 16)])
def test_what_is_below_zero_is_kept_at_a_fifth(kind, size, monkeypatch):
    slopes, real = [], F.leaky_relu
    monkeypatch.setattr(F, "leaky_relu", lambda x, slope: slopes.append(slope) or real(x, slope))
    kind(tiny_network((2,), 0, image_size=size), nz=4, width=2)(torch.randn(3, 4))
    assert slopes == [0.2] * (2 if kind is Generator else 4)
