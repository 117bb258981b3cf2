"""Checkpoints in and out: what is understood, what is refused, and in which words."""

import pickle
import sys

import pytest
import torch
from helpers.networks import tiny_network
from safetensors.torch import save_file
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks import builtin, state_dicts
from dreamstill.networks.load import checkpoint_file, load_network, resolve, save_network
from dreamstill.networks.network import Network

FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}
KWARGS = {"widths": [3, 4]}


@pytest.fixture
def small():
    return tiny_network((3, 4), 0)


@pytest.fixture
def saved(small, tmp_path):
    save_network(tmp_path / "student.safetensors", small)
    return tmp_path / "student.safetensors"


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def write(path, content, **kwargs):
    torch.save(content, path, **kwargs)
    return path


def bare(path, **changes):
    return resolve("convnet", path, **{"kwargs": KWARGS, **FACTS, **changes})


# ---------------------------------------------------------------- round trips


def test_what_was_saved_comes_back_bit_for_bit(small, saved):
    back = load_network(saved)
    assert same(small, back)
    assert back.description() == small.description()
    assert torch.equal(back.mean, small.mean)
    assert torch.equal(back.std, small.std)
    assert not back.training
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(back(images), small(images))


def test_memory_formats_and_shared_tensors_are_no_obstacle(small, tmp_path):
    small.to(memory_format=torch.channels_last)
    small.module.also = small.module.linear
    save_network(tmp_path / "x.safetensors", small)
    state, _ = state_dicts.load_state(tmp_path / "x.safetensors")
    assert torch.equal(state["also.weight"], state["linear.weight"])
    assert torch.equal(state["blocks.1.0.weight"], small.module.blocks[1][0].weight)


def test_a_run_folder_stands_for_its_student_then_its_model(small, saved):
    assert same(load_network(saved.parent), small)
    other = tiny_network((3, 4), 9)
    save_network(saved.parent / "model.safetensors", other)
    assert checkpoint_file(saved.parent) == saved
    saved.unlink()
    assert same(load_network(saved.parent), other)


def test_a_network_that_only_python_can_build(small, saved):
    template = tiny_network((3, 4), 5).module.train()
    before = {k: v.clone() for k, v in template.state_dict().items()}
    back = load_network(saved, template)
    assert same(back, small)
    assert not any(m.training for m in back.modules())
    assert template.training
    assert all(torch.equal(v, before[k]) for k, v in template.state_dict().items())
    with pytest.raises(InputError, match="not written by dreamstill"):
        load_network(write(saved.with_suffix(".pt"), small.module.state_dict()), template)


def test_a_bare_state_dict_with_the_users_facts(small, tmp_path):
    back = bare(write(tmp_path / "x.pt", small.module.state_dict()))
    assert same(back, small)
    assert back.mean.item() == pytest.approx(0.3)
    assert bare(tmp_path / "x.pt", image_size=(8, 8)).image_size == (8, 8)


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model", "net", "network"])
def test_the_usual_nests(small, tmp_path, nest):
    content = {"epoch": 3, nest: small.module.state_dict()}
    assert same(bare(write(tmp_path / "x.pt", content)), small)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_prefixes_of_wrappers(small, tmp_path, prefix, suffix):
    state = {prefix + k: v for k, v in small.module.state_dict().items()}
    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert same(bare(path), small)


class Wrapped(nn.Module):
    """All its layers are under ``model.``, as in many a training script."""

    def __init__(self):
        super().__init__()
        self.model = builtin.build("convnet", num_classes=4, channels=1, image_size=8, widths=(3, 4))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_prefix_that_the_network_has_itself_stays(prefix):
    source, target = Wrapped(), Wrapped()
    state_dicts.apply_state(target, {prefix + k: v for k, v in source.state_dict().items()}, "x")
    assert same(source, target)


# ---------------------------------------------------------------- files that are none


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n<!DOCTYPE html>\n<html>", "text page or a Git LFS pointer"),
        (b"<!doctype html><html>", "text page"),
        (b"<?xml version='1.0'?><Error>", "text page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\x93garbage" * 40, "not a readable checkpoint|corrupt or cut short"),
        (b"\x80\x02" + bytes(range(200)), "not a readable checkpoint|corrupt or cut short"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_bytes_that_are_no_checkpoint(tmp_path, content, words, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        state_dicts.load_state(path)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_short(small, saved, tmp_path, kind, share):
    path = saved
    if kind != "safetensors":
        path = write(tmp_path / "x.pt", small.module.state_dict(), _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=str(path)):
        state_dicts.load_state(path)


def test_damaged_bytes_never_end_in_a_traceback(small, tmp_path):
    draws = torch.Generator().manual_seed(0)
    path = tmp_path / "x.pt"
    for zipped in (True, False):
        torch.save(small.module.state_dict(), path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        refused = 0
        for _ in range(60):
            at, value = (int(torch.randint(n, (), generator=draws)) for n in (min(len(whole), 2000), 256))
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                state_dicts.load_state(path)
            except InputError:
                refused += 1
        assert refused > 10


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        state_dicts.load_state(tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"folder without a student\.safetensors"):
        resolve("convnet", tmp_path, **FACTS)


def test_a_file_that_may_not_be_read(saved, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied"):
        state_dicts.load_state(saved)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"net": {"a": torch.zeros(1)}, "model": {"a": torch.zeros(1)}}, r"several networks .*model, net"),
        ({"epoch": 3, "loss": 0.1}, "the keys epoch, loss"),
        ({0: torch.zeros(1)}, "the keys 0"),
        ({}, "not a state_dict"),
        ([torch.zeros(1)], "holds list"),
        (torch.zeros(2), "holds Tensor"),
    ],
)
def test_contents_that_are_no_state_dict(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        state_dicts.load_state(write(tmp_path / "x.pt", content))


def test_a_description_that_is_none(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"dreamstill": "[1]"})
    with pytest.raises(InputError, match="corrupt"):
        state_dicts.load_state(tmp_path / "x.safetensors")


# ---------------------------------------------------------------- files that would execute code


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_is_refused_and_not_executed(tmp_path, legacy):
    sprung = tmp_path / "sprung"
    trap = write(tmp_path / "x.pt", {"state_dict": Trap(str(sprung))}, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"execute code.*--unsafe-load"):
        state_dicts.load_state(trap)
    assert not sprung.exists()
    with pytest.raises(InputError):  # what it made is no state_dict; but it ran, so the trap is a real one
        state_dicts.load_state(trap, unsafe=True)
    assert sprung.exists()


def test_a_pickled_module_needs_the_users_consent(small, tmp_path):
    path = write(tmp_path / "x.pt", small.module)
    with pytest.raises(InputError, match=r"dreamstill.networks.builtin.plain.ConvNet.*--unsafe-load"):
        bare(path)
    assert same(bare(path, unsafe=True), small)
    assert same(bare(write(path, {"net": small.module}), unsafe=True), small)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_is_refused_too(tmp_path, protocol):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"state_dict": Trap(str(tmp_path / "sprung"))}, protocol=protocol))
    with pytest.raises(InputError, match=r"\(_?io\.open\), and loading them would execute code.*--unsafe-load"):
        state_dicts.load_state(path)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(InputError, match="not a state_dict"):
        state_dicts.load_state(path, unsafe=True)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"\x80\x02.", b"garbage here and there", pickle.dumps({"a": 1})])
def test_what_is_no_checkpoint_is_said_without_the_unpicklers_words(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError) as caught:
        state_dicts.load_state(tmp_path / "x.pt")
    assert not any(word in str(caught.value) for word in ("pop from", "Weights only", "operand"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": -3}, "num_classes is -3: the teacher needs at least 2"),
        ({"channels": -1, "mean": None, "std": None}, "the teacher needs --mean, --std"),
        ({"channels": -1}, "channels is -1: the teacher needs at least 1"),
        ({"kwargs": {"widths": [0, -3]}}, "convnet cannot be built with"),
        ({"kwargs": {"widths": "abc"}}, "convnet cannot be built with"),
        ({"kwargs": {"widths": []}}, "convnet cannot be built with"),
        ({"kwargs": {"widths": [4, 0]}}, "convnet"),
    ],
)
def test_facts_and_arguments_that_make_no_network(changes, said):
    with pytest.raises(InputError, match=said) as caught:
        bare(None, **changes)
    assert "\n" not in str(caught.value)


def test_a_pickled_class_that_is_not_importable_here(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text("import torch\nclass Net(torch.nn.Linear): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import theirs

    path = write(tmp_path / "x.pt", theirs.Net(2, 2))
    monkeypatch.undo()
    del sys.modules["theirs"]
    with pytest.raises(InputError, match=r"needs code that is not here .*theirs"):
        state_dicts.load_state(path, unsafe=True)


def test_a_file_does_not_choose_the_code_that_is_called(small, tmp_path):
    small.name, small.kwargs = "os:getcwd", {}
    save_network(tmp_path / "x.safetensors", small)
    with pytest.raises(InputError, match=r"asks for os:getcwd.*--trust-code"):
        resolve(None, tmp_path / "x.safetensors")


# ---------------------------------------------------------------- files of another network


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("linear.bias"), r"1 missing keys \(linear.bias\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unknown keys \(extra\)"),
        (lambda s: [s.pop(k) for k in list(s)[:6]], r"6 missing keys \(.*, \.\.\.\)"),
    ],
)
def test_missing_and_unknown_keys_are_named(small, tmp_path, change, words):
    state = small.module.state_dict()
    change(state)
    with pytest.raises(InputError, match=words):
        bare(write(tmp_path / "x.pt", state))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 7}, "the file has 4 classes, so set num_classes to that"),
        ({"channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}, "the file takes 1 channels, so set channels to that"),
        ({"kwargs": {"widths": [3, 5]}}, "another width"),
        ({"kwargs": {"widths": [2, 4]}}, "another width"),
    ],
)
def test_shapes_that_differ_come_with_a_hint(small, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        bare(write(tmp_path / "x.pt", small.module.state_dict()), **changes)


def test_no_hint_that_cannot_be_right():
    """The classes agree; it is the width before them that does not."""
    with pytest.raises(InputError, match="another width"):
        state_dicts.apply_state(nn.Linear(5, 3), nn.Linear(4, 3).state_dict(), "x")
    with pytest.raises(InputError, match="another width"):
        state_dicts.apply_state(nn.Conv2d(3, 4, 3), {**nn.Conv2d(3, 4, 5).state_dict()}, "x")


# ---------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_classes", 5), ("image_size", 16), ("image_size", (8, 16)), ("channels", 3), ("mean", [0.31]), ("std", [1])],
)
def test_the_user_and_the_file_must_not_contradict_each_other(saved, key, value):
    with pytest.raises(InputError, match=rf"its {key} is .* and you gave"):
        resolve(None, saved, **{key: value})


def test_the_user_may_repeat_what_the_file_says(saved, small):
    assert same(resolve("convnet", saved, **FACTS), small)  # and the widths are the file's


@pytest.mark.parametrize("missing", ["num_classes", "image_size", "mean", "std"])
def test_a_bare_file_needs_every_fact(small, tmp_path, missing):
    with pytest.raises(InputError, match=f"the teacher needs --{missing}: .* is a bare file"):
        bare(write(tmp_path / "x.pt", small.module.state_dict()), **{missing: None})


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_facts_that_cannot_be(small, tmp_path):
    path = write(tmp_path / "x.pt", small.module.state_dict())
    with pytest.raises(InputError, match="give one side of at least 1 pixel"):
        bare(path, image_size=[8])
    with pytest.raises(InputError, match="channels is 0"):  # and not silently 3
        bare(path, channels=0)
    with pytest.raises(InputError, match="does not say which network"):
        resolve(None, path, **FACTS)
    with pytest.raises(InputError, match="square"):
        bare(path, image_size=(8, 12))


def test_without_a_checkpoint_the_weights_are_fresh():
    torch.manual_seed(3)
    one = resolve("convnet", None, kwargs=KWARGS, **FACTS)
    torch.manual_seed(3)
    assert same(one, resolve("convnet", None, kwargs=KWARGS, **FACTS))
    with pytest.raises(InputError, match="the student needs --num_classes"):
        resolve("convnet", None, role="student", image_size=8, mean=[0], std=[1])


# ---------------------------------------------------------------- factories


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, hidden=5):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, num_classes))\n"
        "def fixed(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
        "def wrong(): return 3\n"
        "SIZE = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "mynets"
    sys.modules.pop("mynets", None)


def test_a_factory_gets_the_classes_if_it_takes_them(mine, tmp_path):
    net = resolve(f"{mine}:Net", None, kwargs={"hidden": 6}, **FACTS)
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    assert net.module[1].out_features == 6
    save_network(tmp_path / "x.safetensors", net)
    assert same(resolve(f"{mine}:Net", tmp_path / "x.safetensors"), net)  # arguments from the file
    assert resolve(f"{mine}:fixed", None, **FACTS)(torch.rand(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("mynets:nope", {}, "could not be imported"),
        ("no_such_module:f", {}, "could not be imported"),
        (":f", {}, "could not be imported"),
        ("mynets:Net", {"deep": 3}, "could not be called with .*deep"),
        ("mynets:wrong", {}, "returned int"),
        ("mynets:SIZE", {}, "is a int: expected a class or function"),
    ],
)
def test_factories_that_do_not_work(mine, name, kwargs, words):
    with pytest.raises(InputError, match=words):
        resolve(name, None, kwargs=kwargs, **FACTS)


# ---------------------------------------------------------------- identity


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert state_dicts.sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_fingerprint_follows_every_weight(small):
    first = state_dicts.fingerprint(small)
    assert first == state_dicts.fingerprint(tiny_network((3, 4), 0))
    with torch.no_grad():
        small.module.linear.bias[0] += 1e-3
    assert state_dicts.fingerprint(small) != first
    assert state_dicts.fingerprint(Network(nn.Linear(1, 2).bfloat16(), **FACTS))  # any dtype


def test_a_file_does_not_choose_the_code_below_a_shared_classifier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lowest.py").write_text("import pathlib\n\ndef make():\n    pathlib.Path('trapped').touch()\n")
    small = tiny_network((3, 4), 0)
    small.name, small.kwargs = "shared_classifier", {"base": "lowest:make"}
    save_network(tmp_path / "x.safetensors", small)
    with pytest.raises(InputError, match=r"asks for lowest:make.*--trust-code"):
        load_network(tmp_path / "x.safetensors")
    assert not (tmp_path / "trapped").exists()


def test_fingerprint_follows_the_layers_names():
    one, other = nn.Module(), nn.Module()
    one.a, other.b = nn.Linear(1, 2), nn.Linear(1, 2)
    other.b.load_state_dict(one.a.state_dict())
    assert state_dicts.fingerprint(one) != state_dicts.fingerprint(other)
