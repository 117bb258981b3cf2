"""The engine's own batch norm, which compiled steps use, against the library's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

from dreamstill.engine.batchnorm import LeanBatchNorm, batch_norm
from dreamstill.networks.channel_moments import channelwise, sums_around, total


def both(x, running, weight, bias, training, momentum=0.1):
    """What each gives: values, gradients, running statistics."""
    found = []
    for function in (F.batch_norm, batch_norm):
        inputs = [v.clone().requires_grad_() if v is not None else None for v in (x, weight, bias)]
        mean, var = (v.clone() if v is not None else None for v in running)
        y = function(inputs[0], mean, var, inputs[1], inputs[2], training, momentum, 1e-5)
        (y.double() * torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)).sum().backward()
        found.append(
            [y.detach(), *(v.grad for v in inputs if v is not None), *(v for v in (mean, var) if v is not None)]
        )
    return zip(*found, strict=True)


@given(
    st.integers(2, 5), st.integers(1, 4), st.lists(st.integers(1, 4), max_size=2), st.booleans(), st.booleans(),
    st.booleans(), st.floats(0, 1), st.integers(0, 999),
)  # fmt: skip
def test_the_same_as_the_library_s(batch, channels, sides, training, affine, running, momentum, seed):
    torch.manual_seed(seed)
    x = torch.randn(batch, channels, *sides, dtype=torch.float64) * 2 + 1
    statistics = (torch.randn(channels).double(), torch.rand(channels).double() + 0.5) if running else (None, None)
    weight, bias = (torch.randn(channels).double(), torch.randn(channels).double()) if affine else (None, None)
    for theirs, ours in both(x, statistics, weight, bias, training or not running, momentum):
        assert torch.allclose(theirs, ours, atol=1e-7), (theirs, ours)  # a variance of nearly 0 magnifies rounding


@pytest.mark.parametrize("training", [True, False])
def test_half_precision_is_the_library_s_to_half_precision(training):
    torch.manual_seed(0)
    x = (torch.randn(16, 8, 6, 6) + 0.5).bfloat16()
    statistics = (torch.zeros(8), torch.ones(8))
    for theirs, ours in both(x, statistics, torch.rand(8), torch.randn(8), training):
        assert theirs.dtype == ours.dtype
        assert torch.allclose(theirs.float(), ours.float(), rtol=2e-2, atol=2e-2)


def test_a_channel_far_from_zero_near_its_running_mean():
    torch.manual_seed(0)
    x = torch.randn(400, 3, 6, 6) * 1e-2 + 100
    mean, var = sums_around(x, torch.full((3,), 100.1))
    assert torch.allclose(mean, x.mean((0, 2, 3)))
    assert torch.allclose(var.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-3)


def test_the_gradient_is_laid_out_as_the_map_whatever_comes_back():
    """The gradient of a mean over the map comes channels first; each block would re-order it once more."""
    x = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = batch_norm(x, torch.zeros(3), torch.ones(3), training=True)
    (dx,) = torch.autograd.grad(y, x, torch.randn(4, 3, 5, 5))
    assert dx.is_contiguous(memory_format=torch.channels_last)


def test_one_value_a_channel_is_refused_as_the_library_does():
    for function in (F.batch_norm, batch_norm):
        with pytest.raises(ValueError, match="more than"):
            function(torch.ones(1, 3, 1, 1), torch.zeros(3), torch.ones(3), training=True)
    assert batch_norm(torch.ones(1, 3, 1, 1), torch.zeros(3), torch.ones(3)).shape == (1, 3, 1, 1)


class Breaking(nn.Module):
    """A network that the compiler cannot take in one piece."""

    def forward(self, x):
        torch._dynamo.graph_break()
        return x + 1


@pytest.mark.slow
def test_compiled_it_takes_the_place_of_the_library_s():
    """By a backend that runs what was traced and needs no C++ compiler."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Breaking(),
        nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4, affine=False),
    ).double()
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    seen = []

    def backend(graph, _inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def run(x):
        with LeanBatchNorm():
            return net(x)

    compiled = torch.compile(run, backend=backend, dynamic=False)
    for training in (True, False):
        net.train(training)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        y = net(x)
        after = {k: v.clone() for k, v in net.state_dict().items()}
        net.load_state_dict(before)
        assert torch.allclose(compiled(x), y, atol=1e-9)
        assert all(torch.allclose(net.state_dict()[k], after[k], atol=1e-9) for k in after)
    assert seen
    assert not any("batch_norm" in name for name in seen)
    assert any("autograd_function_apply" in name or "as_strided" in name for name in seen)


def image_end(x, scale, shift):
    """What a generator ends with: a function, batch norm, pixels; and a sum over all but the channels."""
    with LeanBatchNorm():
        y = F.batch_norm(channelwise(torch.tanh, x), None, None, training=True)
    y = channelwise(lambda v, a, b: v * a + b, y, scale, shift)
    return y, total(y * y)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3, 20])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_rows_of_few_channels_give_the_same(channels, layout):
    torch.manual_seed(0)
    x = torch.randn(6, channels, 5, 7, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    scale, shift = torch.rand(channels).double() + 0.5, torch.randn(channels).double()
    weights = torch.randn(6, channels, 5, 7).double()
    seen, found = [], []

    def backend(graph, inputs):
        seen.extend(str(node.target) for m in graph.modules() for node in getattr(m, "graph", graph.graph).nodes)
        return aot_eager(graph, inputs)

    for run in (image_end, torch.compile(image_end, backend=backend, dynamic=False)):
        y, squares = run(x, scale, shift)
        (dx,) = torch.autograd.grad((y * weights).sum() + squares.sum(), x)
        found.append((y, squares, dx))
        assert y.is_contiguous(memory_format=layout)
    assert seen
    assert ("repeat" in seen) == (channels == 3 and layout is torch.channels_last)
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(theirs, ours, atol=1e-10)
