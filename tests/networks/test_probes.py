import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks.channel_moments import moments
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Probe, Rest, bn_layers, last_linear


def small(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    return Network(body, num_classes=3, image_size=8, channels=1, mean=[0.25], std=[0.5])


def test_network_standardises_and_returns_logits():
    network = small().eval()
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(network(images), network.module((images - 0.25) / 0.5))
    assert network.description()["mean"] == [0.25]
    assert set(network.state_dict()) == {f"module.{k}" for k in network.module.state_dict()}


@pytest.mark.parametrize("wrong", [{"mean": [0.1, 0.2]}, {"std": [0.0]}, {"num_classes": 1}])
def test_network_refuses_what_cannot_be(wrong):
    with pytest.raises(InputError):
        Network(nn.Identity(), **{"num_classes": 3, "image_size": 8, "channels": 1, **wrong})


def test_outputs_of_other_kinds():
    class Wrapped(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.kind = kind

        def forward(self, x):
            y = x.flatten(1)[:, :3].bfloat16()
            return {"dict": {"out": y}, "tensor": y, "list": [y]}[self.kind]

    for kind in ("dict", "tensor"):
        assert (
            Network(Wrapped(kind), num_classes=3, image_size=2, channels=1)(torch.rand(2, 1, 2, 2)).dtype
            == torch.float32
        )
    with pytest.raises(InputError, match="list"):
        Network(Wrapped("list"), num_classes=3, image_size=2, channels=1)(torch.rand(2, 1, 2, 2))


@given(st.integers(2, 4), st.integers(1, 4), st.lists(st.integers(1, 3), max_size=3), st.integers(0, 100))
def test_moments_and_their_gradients(batch, channels, sides, seed):
    torch.manual_seed(seed)
    x = torch.randn(batch, channels, *sides, dtype=torch.float64, requires_grad=True)
    mean, var = moments(x)
    others = [d for d in range(x.dim()) if d != 1]
    assert torch.allclose(mean, x.mean(others))
    assert torch.allclose(var, x.var(others, correction=0))
    assert torch.autograd.gradcheck(moments, x)


def test_the_variance_of_a_channel_far_from_zero():
    x = torch.randn(400, 3, 6, 6) * 1e-2 + 100  # E[x^2] - E[x]^2 would be all rounding error
    assert torch.allclose(moments(x)[1].double(), x.double().var((0, 2, 3), correction=0), rtol=1e-3)


def test_what_enters_a_layer():
    network = small().eval()
    probe = Probe(network, taps=("8:input", "7"))
    seen = probe(torch.rand(2, 1, 8, 8))
    assert seen.taps["8:input"].shape == (2, 6)
    assert torch.equal(seen.taps["8:input"], seen.taps["7"])
    with pytest.raises(InputError, match="8:output"):
        Probe(network, taps=("8:output",))


def test_moments_are_those_of_the_bn_input():
    network = small().eval().double()
    probe = Probe(network, bn=True)
    images = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    seen = probe(images, stats=True)
    entering = network.module[0]((images - 0.25) / 0.5)
    assert torch.allclose(seen.moments[0].mean, entering.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(seen.moments[0].var, entering.var((0, 2, 3), correction=0), atol=1e-6)
    assert torch.equal(seen.moments[1].running_var, network.module[4].running_var)
    assert len(seen.moments) == 2
    assert len(bn_layers(network)) == 2
    assert torch.equal(seen.logits, network(images))


def test_nothing_is_kept_between_calls_and_statistics_only_on_request():
    probe = Probe(small().eval(), taps=["2"], bn=True)
    assert probe(torch.rand(2, 1, 8, 8)).moments == []
    first, second = probe(torch.rand(2, 1, 8, 8)), probe(torch.rand(2, 1, 8, 8))
    assert not torch.equal(first.taps["2"], second.taps["2"])
    assert probe._moments == []
    assert probe._features == {}


def test_gradients_flow_from_statistics_and_taps_to_the_images():
    probe = Probe(small().eval(), taps=["5"], bn=True)
    images = torch.rand(4, 1, 8, 8, requires_grad=True)
    seen = probe(images, stats=True)
    (seen.taps["5"].sum() + seen.moments[1].var.sum()).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_averaged_moments_obey_the_law_of_total_variance():
    halves = torch.rand(8, 1, 8, 8, dtype=torch.float64).chunk(2)
    alone = [Probe(small().eval().double(), bn=True)(h, stats=True).moments[0] for h in halves]
    both = Probe(small().eval().double(), bn=True)(torch.cat(halves), stats=True).moments[0]
    mean = (alone[0].mean + alone[1].mean) / 2
    var = sum(m.var + (m.mean - mean).square() for m in alone) / 2
    assert torch.allclose(both.mean, mean, atol=1e-6)
    assert torch.allclose(both.var, var, atol=1e-6)


def test_unknown_tap_names_the_layers_there_are():
    with pytest.raises(InputError, match="no layer 'nope'"):
        Probe(small(), taps=["nope"])


def test_last_linear():
    assert last_linear(small().module) == "8"
    assert last_linear(nn.Conv2d(1, 1, 1)) is None


def test_the_rest_of_a_network_from_any_tap_on():
    network = small().eval()
    probe = Probe(network, taps=("0", "3:input", "8:input"))
    images = torch.rand(5, 1, 8, 8)
    seen = probe(images)
    for tap, value in seen.taps.items():
        rest = Rest(network, tap)
        assert torch.equal(rest(value), seen.logits)
        assert not torch.equal(rest(value + 1.0), seen.logits)
    # Without a value in it, the hook changes nothing, for the probe neither.
    assert torch.equal(network(images), seen.logits)
    assert torch.equal(probe(images).taps["3:input"], seen.taps["3:input"])
    assert rest(torch.rand(7, 6)).shape == (7, 3)


def test_the_rest_refuses_what_does_not_fit_and_recovers():
    network = small().eval()
    rest = Rest(network, "8:input")
    with pytest.raises(InputError, match=r"has \(6,\) at '8:input' and \(5,\) was given"):
        rest(torch.rand(2, 5))
    before = network(torch.ones(1, 1, 8, 8))
    assert before.isfinite().all()
    with pytest.raises(InputError, match="no layer '9'"):
        Rest(network, "9")


def test_the_rest_behind_a_layer_that_is_not_run():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x.flatten(1))

    rest = Rest(Network(Branch(), num_classes=2, image_size=2, channels=1), "unused")
    with pytest.raises(InputError, match="does not run its layer 'unused'"):
        rest(torch.rand(3, 2))


def one_norm():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    body = nn.Sequential(*layers, nn.Linear(4, 3))
    return Network(body, num_classes=3, image_size=8, channels=1, mean=[0.25], std=[0.5]).eval()


def test_half_maps_are_measured_in_float32():
    network = one_norm()
    entering = []
    network.module[1].register_forward_pre_hook(lambda _, x: entering.append(x[0]))
    probe = Probe(network, bn=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = probe(torch.rand(64, 1, 8, 8), stats=True)
    assert entering[-1].dtype == torch.bfloat16
    assert (seen.moments[0].mean.dtype, seen.moments[0].var.dtype) == (torch.float32, torch.float32)
    assert torch.allclose(seen.moments[0].var, entering[-1].float().var((0, 2, 3), correction=0), rtol=1e-4)


def test_the_variance_over_ranks_has_that_of_their_means_in_it():
    images = torch.rand(8, 1, 8, 8, dtype=torch.float64)
    halves = (images + torch.tensor([0.0, 3.0]).repeat_interleave(4)[:, None, None, None]).chunk(2)
    alone = [Probe(one_norm().double(), bn=True)(h, stats=True).moments[0] for h in halves]
    mean = (alone[0].mean + alone[1].mean) / 2
    other = iter([alone[1].mean, alone[1].var + (alone[1].mean - mean).square()])  # what the second rank would send
    probe = Probe(one_norm().double(), bn=True, average=lambda mine: (mine + next(other)) / 2)
    found = probe(halves[0], stats=True).moments[0]
    both = Probe(one_norm().double(), bn=True)(torch.cat(halves), stats=True).moments[0]
    assert torch.allclose(found.mean, both.mean, atol=1e-9)
    assert torch.allclose(found.var, both.var, atol=1e-9)
