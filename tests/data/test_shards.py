"""A set in several files: the same bits in one go or taken up again, balanced if asked for, read by others."""

import json
from importlib.util import find_spec

import pyarrow.parquet as pq
import pytest
import torch
from helpers.networks import tiny_network
from helpers.runs import FIXED, SMALL
from PIL import Image

import dreamstill
from dreamstill import cli
from dreamstill.commands import synthesize as command
from dreamstill.data.load import load_images
from dreamstill.errors import InputError
from dreamstill.networks.load import save_network
from dreamstill.networks.predict import predict
from dreamstill.networks.state_dicts import fingerprint
from dreamstill.runs.balanced import balanced, balanced_order

pytestmark = [pytest.mark.xdist_group("shards"), pytest.mark.filterwarnings("ignore:the soft targets")]
METHODS = {
    "ddad": {**SMALL, "batch_size": 8},
    "cgdd": {"name": "cgdd", "batch_size": 8, "nz": 8, "width": 4},
    "random_generator": {"name": "random_generator", "batch_size": 8, "width": 4},
    "fast": {"name": "fast", "width": 4, "nz": 8, "images": 8, "crop": 1, "warmup": 1, "student_steps": 1, "bank": 50,
             "batch_size": 8},
    "soft_target": {"name": "soft_target", "n_images": 40, "synthesis_batch": 8, "iterations": 2, "batch_size": 8,
                    "tau": 1.0},
}  # fmt: skip


def even_teacher():
    """It sees all of its four classes in whatever it is shown: each by the brightness of another corner."""
    network = tiny_network((4, 6), 0)
    with torch.no_grad():
        images = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        network.module.linear.bias -= network(images).mean(0)
    return network


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs by the names of their methods, each made when it is first asked for."""
    folder = tmp_path_factory.mktemp("shards")
    save_network(folder / "teacher.safetensors", even_teacher())

    def made(name):
        if not (folder / name).exists():
            dreamstill.distill(
                teacher_checkpoint=str(folder / "teacher.safetensors"), student="convnet",
                student_args={"widths": [2, 3]}, method=METHODS[name], steps=4, onnx=False, out=str(folder / name),
                **FIXED,
            )  # fmt: skip
        return str(folder / name)

    return made


def shards(folder):
    return sorted(folder.glob("*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_a_killed_command_goes_on_at_the_next_shard(name, run, tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ["synthesize", run(name), "--n", "35", "--shard-size", "10", "--out"]
    assert cli.main([*words, str(whole)]) == 0
    assert [len(pq.read_table(p)) for p in shards(whole)] == [10, 10, 10, 5]
    write, calls = command.write_shards, []

    def killed(path, sizes, make, *rest):
        def third(i):
            calls.append(i)
            if i == 2 and len(calls) == 3:
                raise KeyboardInterrupt
            return make(i)

        return write(path, sizes, third, *rest)

    monkeypatch.setattr(command, "write_shards", killed)
    assert cli.main([*words, str(cut)]) == 130
    assert len(shards(cut)) == 2
    capsys.readouterr()
    assert cli.main([*words, str(cut)]) == 0
    assert calls == [0, 1, 2, 2, 3]
    assert "2 shards were there already" in capsys.readouterr().out
    for one, other in zip(shards(whole), shards(cut), strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()
    assert (whole / "manifest.json").read_text() == (cut / "manifest.json").read_text()


def test_the_manifest_says_what_the_set_is(run, tmp_path):
    out = tmp_path / "set"
    dreamstill.synthesize(run("ddad"), n=25, out=str(out), shard_size=10, seed=3)
    about = json.loads((out / "manifest.json").read_text())
    assert about["source"]["teacher_sha256"] == fingerprint(even_teacher().module)
    assert about["source"]["method"]["name"] == "ddad"
    assert (about["source"]["seed"], about["run_seed"], about["count"], about["balanced"]) == (3, 0, 25, False)
    assert about["license"].startswith("not chosen")
    found = load_images(str(out), "train")
    counts = [sum(shard["classes"][c] for shard in about["shards"].values()) for c in range(4)]
    assert torch.bincount(found.labels, minlength=4).tolist() == counts
    assert torch.equal(predict(even_teacher(), found.pixels).argmax(1), found.labels)
    assert len(found.pixels.flatten(1).unique(dim=0)) == 25  # no shard is another again


def test_another_set_is_not_written_over(run, tmp_path):
    out = tmp_path / "set"
    dreamstill.synthesize(run("ddad"), n=12, out=str(out), shard_size=10)
    for other in ({"n": 13}, {"n": 12, "seed": 1}, {"n": 12, "balanced": True}, {"n": 12, "shard_size": 6}):
        with pytest.raises(InputError, match="holds another set, whose"):
            dreamstill.synthesize(run("ddad"), out=str(out), **{"shard_size": 10, **other})
    (out / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"and no manifest\.json"):
        dreamstill.synthesize(run("ddad"), n=12, out=str(out), shard_size=10)


def test_a_damaged_shard_is_made_again(run, tmp_path):
    out = tmp_path / "set"
    dreamstill.synthesize(run("ddad"), n=12, out=str(out), shard_size=6)
    second = shards(out)[1]
    content = second.read_bytes()
    second.write_bytes(content[:-9])
    dreamstill.synthesize(run("ddad"), n=12, out=str(out), shard_size=6)
    assert second.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddad", "soft_target"])
def test_as_many_of_each_class(name, run, tmp_path):
    out, n = tmp_path / "set", {"ddad": 22, "soft_target": 9}[name]
    dreamstill.synthesize(run(name), n=n, out=str(out), shard_size=7, balanced=True)
    about = json.loads((out / "manifest.json").read_text())
    for shard in about["shards"].values():
        assert max(shard["classes"]) - min(shard["classes"]) <= 1
    labels = load_images(str(out), "train").labels
    assert labels.tolist() == [j % 4 for j in range(n)] or name == "ddad"
    assert torch.bincount(labels, minlength=4).tolist() == [len(range(c, n, 4)) for c in range(4)]


def test_a_class_that_hardly_comes_up():
    teacher = even_teacher()
    with torch.no_grad():
        teacher.module.linear.bias[2] -= 100
    draw = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match=r"too few are of the classes 2 \(0\): leave out --balanced"):
        balanced(lambda n: torch.rand(n, 1, 8, 8, generator=draw), teacher, torch.tensor([2, 2, 2, 2]))
    with pytest.raises(InputError, match="has 0 images of class 2, and 2 are needed"):
        balanced_order(torch.randint(256, (90, 1, 8, 8), dtype=torch.uint8, generator=draw), teacher, 8)


@pytest.mark.skipif(find_spec("datasets") is None, reason="the library datasets is not installed")
def test_the_library_datasets_reads_the_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import datasets

    out = tmp_path / "set"
    dreamstill.synthesize(run("ddad"), n=12, out=str(out), shard_size=5)
    found = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert (len(found), found.features["label"].names) == (12, ["0", "1", "2", "3"])
    assert isinstance(found[0]["image"], Image.Image)
    assert found[0]["image"].size == (8, 8)
    assert len(found[0]["logits"]) == 4
    assert found["label"] == load_images(str(out), "train").labels.tolist()


def test_what_datasets_reads_is_said_in_the_files(run, tmp_path):
    """The same where that library is not installed, by pyarrow."""
    out = tmp_path / "set"
    dreamstill.synthesize(run("ddad"), n=12, out=str(out), shard_size=5)
    assert "path: train-*.parquet" in (out / "README.md").read_text()
    table = pq.read_table(shards(out))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": ["0", "1", "2", "3"], "_type": "ClassLabel"}
    assert table.num_rows == 12
    assert torch.equal(torch.tensor(table["label"].to_pylist()), load_images(str(out), "train").labels)
