"""A factory's network whose weights were never loaded."""

import sys

import pytest
import torch
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks.load import check_trained, resolve, save_network

FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}
CODE = """
import random
import numpy as np
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4))

class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 4))

class InAList(Plain):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(64, 64)]

    def forward(self, x):
        return self[1](self.layers[0](self[0](x)))

def load(net, strict=True, drop=()):
    state = torch.load(PATH)
    net.load_state_dict({k: v for k, v in state.items() if k not in drop}, strict=strict)
    return net

def trained(): return load(Net())
def nothing_fits(): return load(nn.Sequential(Net()), strict=False)
def new_head(): return load(Net(), strict=False, drop=("3.weight", "3.bias"))
def seeded():
    torch.manual_seed(5)
    return Net()
def by_numpy():
    net = Plain()
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(np.random.randn(4, 64)))
        net[1].bias.fill_(random.random())
    return net
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4))
    net(torch.rand(9, 1, 8, 8))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    (tmp_path / "their_nets.py").write_text(f"PATH = {str(tmp_path / 'net.pt')!r}\n{CODE}")
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_nets"
    sys.modules.pop("their_nets", None)


def checked(name, checkpoint=None):
    def again():
        return resolve(name, checkpoint, **FACTS)

    network = again()
    check_trained(network, checkpoint, again)
    return network


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("Net", r"4 of its 9 tensors are drawn at random .*0.weight, 0.bias, 3.weight, \.\.\.\).*--teacher-checkpoint"),
        ("Plain", "2 of its 2 tensors are drawn"),
        ("nothing_fits", "4 of its 9 tensors are drawn"),
        ("new_head", r"2 of its 9 tensors are drawn at random .*\(3.weight, 3.bias\)"),
        ("by_numpy", "2 of its 2 tensors are drawn"),
        ("seeded", r"its batch norms \(1\) have the mean 0 and variance 1"),
    ],
)
def test_weights_that_were_never_loaded_are_refused(nets, factory, words):
    with pytest.raises(InputError, match=f"the teacher {nets}:{factory} is not trained: .*{words}"):
        checked(f"{nets}:{factory}")


def test_weights_that_were_loaded_pass_and_no_random_stream_moves(nets, tmp_path):
    streams = torch.get_rng_state()
    network = resolve(f"{nets}:trained", None, **FACTS)
    torch.set_rng_state(streams)
    check_trained(network, None, lambda: resolve(f"{nets}:trained", None, **FACTS))
    assert torch.equal(torch.get_rng_state(), streams)
    save_network(tmp_path / "plain.safetensors", resolve(f"{nets}:Plain", None, **FACTS))
    checked(f"{nets}:Plain", tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match=r"in a plain list.*Mend the factory"):
        checked(f"{nets}:InAList", tmp_path / "plain.safetensors")
