"""Networks that somebody's code makes, and what it raises."""

import sys

import pytest
import torch

from dreamstill.errors import InputError
from dreamstill.networks import factories

CODE = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes=3):
        super().__init__(nn.Flatten(), nn.Linear(4, num_classes))

    @classmethod
    def from_pretrained(cls, path, **kwargs):
        return cls(**kwargs)

class Zoo:
    class Inner:
        make = Net

def passes_on(**kwargs): return Net(**kwargs)
def knows_others(**kwargs):
    if kwargs: raise TypeError(f"unexpected keyword argument {list(kwargs)[0]!r}")
    return Net()
def no_file(): return torch.load("/nowhere/best.pt")
def adds(): return len(Net()) + "1"
def no_gpu(): raise RuntimeError("Found no NVIDIA driver on your system.\\nPlease check that you have one.")
def leaves(): raise SystemExit("usage: train.py --config FILE")
def wrong_keys(**kwargs): raise KeyError("state_dict")
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "their_factories.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "their_factories.py"
    for name in [n for n in sys.modules if n.startswith("their_")]:
        del sys.modules[name]


def test_dotted_factories_and_files(nets):
    for name in ("their_factories:Net", "their_factories:Zoo.Inner.make", f"{nets}:Net", "./their_factories.py:Net"):
        assert factories.made(name, {}, 5)[1].out_features == 5
    for kwargs in ({"path": "here"}, {"path": "here", "num_classes": 7}):
        made = factories.made("their_factories:Net.from_pretrained", kwargs, 5)
        assert made[1].out_features == kwargs.get("num_classes", 5)


def test_a_file_finds_its_neighbours_and_files_of_one_name_stay_apart(nets, tmp_path):
    for folder, size in (("one", 2), ("two", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "their_model.py").write_text(
            f"from torch import nn\ndef Net(): return nn.Linear(1, {size})\n"
        )
    assert [factories.made(f"{f}/their_model.py:Net", {}, 5).out_features for f in ("one", "two")] == [2, 3]
    (tmp_path / "one" / "their_other.py").write_text("from their_model import Net\n")
    assert factories.made("one/their_other.py:Net", {}, 5).out_features == 2


def test_classes_reach_a_factory_that_hands_them_on(nets):
    assert factories.made("their_factories:passes_on", {}, 6)[1].out_features == 6
    assert factories.made("their_factories:knows_others", {}, 6)[1].out_features == 3


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("no_file", r"raised FileNotFoundError: .*/nowhere/best.pt.* \(.*their_factories.py:\d+\)"),
        (
            "adds",
            r"raised TypeError: unsupported operand .* \(.*their_factories.py:\d+\) when called with no arguments",
        ),
        ("no_gpu", r"raised RuntimeError: Found no NVIDIA driver on your system. \(.*their_factories.py:\d+\)"),
        ("leaves", r"raised SystemExit: usage: train.py --config FILE"),
        ("wrong_keys", r"raised KeyError: 'state_dict' .*when called with \{'num_classes': 4\}"),
        ("Nett", r"could not be imported \(AttributeError: .*did you mean Net"),
        ("Zoo.Outer", r"could not be imported \(AttributeError"),
    ],
)
def test_whatever_a_factory_raises_is_one_sentence(nets, factory, words):
    with pytest.raises(InputError, match=f"their_factories:{factory} {words}") as caught:
        factories.made(f"their_factories:{factory}", {}, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = (1,\n", r"SyntaxError: .*their_broken.py:1\)"),
        ("import torch\n\ntorch.load('/nowhere')\n", r"FileNotFoundError: .*their_broken.py:3\)"),
        ("raise RuntimeError('no licence')\n", r"RuntimeError: no licence \(.*their_broken.py:1\)"),
        ("import sys\nsys.exit(2)\n", r"SystemExit: 2 \(.*their_broken.py:2\)"),
        ("import a_library_that_is_not_here\n", "ModuleNotFoundError: No module named 'a_library_that_is_not_here'"),
        ("from torch import nothing_such\n", "ImportError: cannot import name 'nothing_such'"),
    ],
)
@pytest.mark.parametrize("name", ["their_broken:Net", "./their_broken.py:Net"])
def test_whatever_a_module_raises_is_one_sentence(nets, tmp_path, name, code, words):
    (tmp_path / "their_broken.py").write_text(code)
    with pytest.raises(InputError, match=rf"could not be imported because its (module|file) raises {words}") as caught:
        factories.made(name, {}, 4)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(nets):
    with pytest.raises(InputError, match=r"there is no file nets/mine.py"):
        factories.made("nets/mine.py:Net", {}, 4)


def test_the_factory_is_called_once(nets, tmp_path):
    (tmp_path / "their_counting.py").write_text(
        "from torch import nn\nCALLS = []\n"
        "def Net(num_classes):\n    CALLS.append(1)\n    return nn.Linear(2, num_classes)\n"
    )
    assert factories.made("their_counting:Net", {}, 4)(torch.rand(1, 2)).shape == (1, 4)
    assert sys.modules["their_counting"].CALLS == [1]
