"""The average, worked out by hand."""

import pytest
import torch
from helpers.networks import tiny_network
from torch import nn

from dreamstill.engine.ema import Ema
from dreamstill.networks.network import Network


class Counter(nn.Module):
    """One parameter, one float buffer, one integer buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


def counter():
    return Network(Counter(), num_classes=2, image_size=1, channels=1)


def feed(ema, live, values):
    for i, value in enumerate(values):
        with torch.no_grad():
            live.module.weight.fill_(value)
            live.module.mean.fill_(10 * value)
            live.module.seen.fill_(i + 7)
        ema.update(live)
    return ema.network.module


@pytest.mark.parametrize(
    ("iterations", "share", "decay"), [(1000, 0.02, 0.95), (100, 0.1, 0.9), (100_000, 0.02, 0.9995), (10, 0.02, 0.0)]
)
def test_the_average_reaches_back_over_a_share_of_the_run(iterations, share, decay):
    assert Ema(counter(), iterations, share).decay == pytest.approx(decay)


def test_early_on_it_is_the_plain_mean_and_the_start_is_forgotten():
    live = counter()
    with torch.no_grad():
        live.module.weight.fill_(1000.0)
    ema = Ema(live, 100, 0.1)  # decay 0.9: the first ten updates are a plain mean
    values = [1.0, 2.0, 6.0, 7.0]
    for n in range(1, 5):
        feed(ema, live, values[n - 1 : n])
        assert torch.allclose(ema.network.module.weight, torch.tensor(sum(values[:n]) / n))
    assert ema.updates == 4


def test_then_it_decays():
    ema, live = Ema(counter(), 100, 0.03), counter()  # decay 2/3: three updates of plain mean
    averaged = feed(ema, live, [3.0, 6.0, 9.0])
    assert averaged.weight[0].item() == pytest.approx(6.0)
    averaged = feed(ema, live, [12.0])
    assert averaged.weight[0].item() == pytest.approx(6.0 * 2 / 3 + 12.0 / 3)
    averaged = feed(ema, live, [0.0])
    assert averaged.weight[0].item() == pytest.approx(8.0 * 2 / 3)


def test_float_buffers_are_averaged_and_integer_ones_copied():
    averaged = feed(Ema(counter(), 1000), counter(), [1.0, 2.0, 6.0])
    assert averaged.mean.item() == pytest.approx(30.0)
    assert averaged.seen.item() == 9


def test_batch_norm_statistics_are_averaged():
    live = tiny_network((3, 4), 0)
    ema = Ema(live, 1000)
    seen = []
    live.train()
    for _ in range(3):
        live(torch.rand(8, 1, 8, 8))
        seen.append(live.module.blocks[0][1].running_var.clone())
        ema.update(live)
    bn = ema.network.module.blocks[0][1]
    assert torch.allclose(bn.running_var, torch.stack(seen).mean(0), atol=1e-6)
    assert bn.num_batches_tracked == live.module.blocks[0][1].num_batches_tracked


def test_the_average_is_a_network_of_its_own():
    live = tiny_network((3, 4), 0).train()
    before = {k: v.clone() for k, v in live.state_dict().items()}
    ema = Ema(live, 10)
    assert not ema.network.training
    assert live.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert all(p.requires_grad for p in live.parameters())
    ema.update(tiny_network((3, 4), 1))
    assert all(torch.equal(v, before[k]) for k, v in live.state_dict().items())
    assert torch.allclose(ema.network.mean, torch.tensor(0.3))  # the facts of the network stay
