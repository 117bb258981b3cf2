"""A state dict into a network: whose keys, under which prefix, and which of several."""

from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks.fitting import apply_state
from dreamstill.networks.state_dicts import read_state


def net():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4))


@pytest.fixture
def state():
    torch.manual_seed(0)
    source = net()
    source(torch.rand(5, 1, 8, 8))
    return source.state_dict()


def under(prefix, state, change=lambda v: v):
    return {prefix + k: change(v) for k, v in state.items()}


def applied(state, module=None, **kwargs):
    module = module or net()
    return module, apply_state(module, state, "x.pt", **kwargs)


def same(module, state):
    ours = module.state_dict()
    return all(torch.equal(ours[k], v) for k, v in state.items())


# ---------------------------------------------------------------- torch's own loading


def test_checkpoints_from_before_batches_were_counted(state):
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert same(applied(old)[0], old)
    assert same(applied(under("module.", old))[0], old)
    versioned = OrderedDict(old)
    versioned._metadata = state._metadata
    assert same(applied(versioned)[0], old)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_layers_translate_older_keys(prefix):
    old = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 4)))
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))
    apply_state(new, under(prefix, old.state_dict()), "x")
    images = torch.rand(3, 6)
    assert torch.allclose(new(images), old(images))


class Renaming(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for key in [k for k in state_dict if k.startswith(prefix + "fc.")]:
            state_dict[prefix + "head." + key.rpartition(".")[2]] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_a_network_translates_its_own_older_keys():
    weights = {"fc.weight": torch.rand(2, 3), "fc.bias": torch.rand(2)}
    module = Renaming()
    apply_state(module, weights, "x")
    assert torch.equal(module.head.weight, weights["fc.weight"])


# ---------------------------------------------------------------- prefixes


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "student.encoder.", "model.module._orig_mod."])
@pytest.mark.parametrize("beside", [{}, {"criterion.weight": torch.ones(4), "train_acc.total": torch.ones(())}])
def test_any_one_prefix_that_covers_the_network(state, prefix, beside):
    module, notes = applied({**under(prefix, state), **beside})
    assert same(module, state)
    assert len(notes) == len(beside) / 2
    assert not beside or "passed over: criterion.weight, train_acc.total" in notes[0]


def test_what_training_keeps_beside_bare_keys_is_passed_over_and_said(state):
    module, (note,) = applied({**state, "loss_fn.weight": torch.ones(4), "0.total_ops": torch.ones(1)})
    assert same(module, state)
    assert "passed over: loss_fn.weight, 0.total_ops" in note


@pytest.mark.parametrize("names", [("model.", "ema_model."), ("", "model_ema.module."), ("net.", "net_averaged.")])
def test_an_average_under_a_prefix_is_taken_and_said(state, names):
    raw, average = names
    both = {**under(raw, state), **under(average, state, lambda v: v * 2)}
    module, (said, _) = applied(both)
    assert torch.equal(module[0].weight, 2 * state["0.weight"])
    assert "their average: the average is taken" in said
    assert same(applied(both, prefix=raw)[0], state)


def test_several_that_fit_are_named(state):
    both = {**under("encoder_q.", state), **under("encoder_k.", state, lambda v: v * 2)}
    with pytest.raises(
        InputError, match=r"several networks that fit, under 'encoder_q.', 'encoder_k.'.*--checkpoint-pre"
    ):
        applied(both)
    assert torch.equal(applied(both, prefix="encoder_k.")[0][0].weight, 2 * state["0.weight"])


def test_what_is_missing_is_named_without_the_prefix(state):
    part = under("module.", {k: v for k, v in state.items() if not k.startswith("3.")})
    with pytest.raises(InputError, match=r"removing 'module.' from its keys\): 2 missing keys \(3.weight, 3.bias\)"):
        applied(part)
    with pytest.raises(InputError, match=r"removing 'model.' from its keys\): 2 missing keys \(3.weight, 3.bias\)"):
        applied(
            {**under("model.", {k: v for k, v in state.items() if not k.startswith("3.")}), "other.x": torch.ones(1)}
        )


def test_further_layers_are_no_part_to_pass_over(state):
    with pytest.raises(InputError, match=r"2 unknown keys \(4.weight, 4.bias\)"):
        applied({**state, "4.weight": torch.ones(4, 4), "4.bias": torch.ones(4)})


# ---------------------------------------------------------------- networks under keys of a file


def read(tmp_path, content, **kwargs):
    torch.save(content, tmp_path / "x.pt")
    return read_state(tmp_path / "x.pt", **kwargs)


@pytest.mark.parametrize(
    ("raw", "average"),
    [
        ("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("state_dict", "swa_state_dict"),
        ("net", "averaged_model"), ("model", "modelEma"), ("model", "ema_state_dict"),
    ],
)  # fmt: skip
def test_the_average_beside_the_weights_is_taken_and_said(tmp_path, state, raw, average):
    content = {"epoch": 3, raw: state, average: under("module.", state, lambda v: v * 2), "optimizer": {"state": {}}}
    found = read(tmp_path, content)
    assert torch.equal(found.state["module.0.weight"], 2 * state["0.weight"])
    (note,) = found.notes
    assert f"the weights ({raw}) and their average ({average}): the average is taken" in note
    assert f"--checkpoint-key {raw}" in note
    assert torch.equal(read(tmp_path, content, key=raw).state["0.weight"], state["0.weight"])
    assert read(tmp_path, content, key=raw).notes == []


def test_an_average_in_a_wrapper_of_its_own(tmp_path, state):
    found = read(tmp_path, {"model": state, "ema": {"decay": 0.999, "shadow": under("", state, lambda v: v * 2)}})
    assert torch.equal(found.state["0.weight"], 2 * state["0.weight"])


def test_networks_under_other_keys_are_named_and_chosen(tmp_path, state):
    content = {"netG": state, "netD": {"a.weight": torch.ones(1)}}
    with pytest.raises(InputError, match=r"the keys netG, netD, not a state_dict.*with --checkpoint-key netG"):
        read(tmp_path, content)
    assert read(tmp_path, content, key="netG").state.keys() == state.keys()
    with pytest.raises(InputError, match="no network 'netX': it holds the networks netG, netD"):
        read(tmp_path, content, key="netX")


def test_plain_numbers_beside_the_tensors_are_passed_over_and_others_named(tmp_path, state):
    found = read(tmp_path, {**state, "epoch": 7, "arch": "mine", "best": None})
    assert found.state.keys() == state.keys()
    assert "passed over: epoch, arch, best" in found.notes[0]
    with pytest.raises(InputError, match=r"keys that are no tensors \(hyper, lines\)"):
        read(tmp_path, {**state, "hyper": {"lr": 0.1}, "lines": [1, 2]})


def test_safetensors_are_known_by_their_bytes(tmp_path, state):
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "weights.bin")
    assert read_state(tmp_path / "weights.bin").state.keys() == state.keys()
