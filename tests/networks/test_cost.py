"""Costs of a network small enough to be counted by hand."""

import sys

import pytest
import torch
from helpers.processes import finish, start
from torch import nn

from dreamstill.networks import cost
from dreamstill.runs.machine import machine, peak_memory, reset_peak_memory


def by_hand():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 5, 7),
    )  # fmt: skip


def test_parameters_operations_and_bytes():
    found = cost.count(by_hand(), 2, (4, 5))
    assert found.params == (2 * 9 * 3 + 3) + (3 + 3) + (60 * 7 + 7)
    # Two a multiply-add: 20 positions, 3 outputs of 18 inputs; then 7 of 60 inputs. Bias and BN are not counted.
    assert found.flops == 2 * (20 * 3 * 18) + 2 * (60 * 7)
    # Single precision; running mean and variance are stored too, and the 8 bytes of the batch counter.
    assert found.bytes == 4 * (found.params + 6) + 8


def test_a_shared_parameter_counts_once():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    network[2].weight = network[1].weight
    assert cost.count(network, 1, (2, 3)) == (36, 2 * 2 * 36, 4 * 36)


def test_counting_leaves_the_network_alone():
    network = by_hand().double().train()
    network[1].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    single = cost.count(by_hand(), 2, (4, 5))
    assert cost.count(network, 2, (4, 5)) == single
    after = network.state_dict()
    assert all(torch.equal(after[k], v) and after[k].dtype == v.dtype for k, v in before.items())
    assert [m.training for m in network.modules()] == modes
    assert all(p.grad is None for p in network.parameters())


def test_memory_is_in_bytes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    block = torch.ones(25_000_000)  # 100 MB
    assert block.numel() * 4 < peak_memory() < 1 << 38
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
    assert peak_memory() == 5  # where a GPU works, its memory is the scarce one


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_a_later_run_does_not_inherit_an_earlier_ones_peak():
    """In a process of its own: elsewhere the engine may have told the C library to keep what is freed."""
    finish(start(forget_a_block))


def forget_a_block():
    block = torch.ones(50_000_000)
    high = peak_memory()
    del block
    reset_peak_memory()
    assert peak_memory() < high - 100_000_000


def test_the_machine_is_described():
    found = machine()
    assert found["cpu"]
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["memory_bytes"] > 1 << 28


def test_a_cpu_without_a_file_about_it(monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", lambda self: "processor : 0\n")
    assert isinstance(machine()["cpu"], str)

    def missing(self):
        raise FileNotFoundError(2, "none")

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert isinstance(machine()["cpu"], str)
