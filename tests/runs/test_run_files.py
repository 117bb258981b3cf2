"""What a run folder keeps: one writer, checkpoints that survive anything, and a manifest."""

import errno
import hashlib
import json
import os
import random
import subprocess
from collections import Counter

import pytest
import torch

from dreamstill import files
from dreamstill.data.bank import ImageBank
from dreamstill.errors import InputError
from dreamstill.runs import checkpoints as written
from dreamstill.runs.checkpoint_index import write_index
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.folder import RunFolder, new_folder
from dreamstill.runs.manifest import Weights, _commit, manifest

# ---------------------------------------------------------------- the folder


def test_one_folder_has_one_writer(tmp_path):
    first = RunFolder(tmp_path / "a" / "run", resume=False)
    with pytest.raises(InputError, match="being written by another process"):
        RunFolder(tmp_path / "a" / "run", resume=False)
    RunFolder(tmp_path / "other", resume=False).close()
    first.close()
    assert list((tmp_path / "a" / "run").iterdir()) == []
    RunFolder(tmp_path / "a" / "run", resume=False).close()


def test_a_folder_with_a_run_is_only_resumed_and_one_without_only_begun(tmp_path):
    with pytest.raises(InputError, match="holds no run to resume"):
        RunFolder(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    with pytest.raises(InputError, match=r"already holds a run.*--resume"):
        RunFolder(tmp_path, resume=False)
    RunFolder(tmp_path, resume=True).close()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"cannot be written .*choose another --out"):
            RunFolder(path, resume=False)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        RunFolder(tmp_path, resume=False)


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".summary.json.123.tmp").write_text("half")
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / ".notes.tmp").write_text("somebody's")
    (tmp_path / ".x.1.tmp").mkdir()
    RunFolder(tmp_path, resume=True).close()
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", ".notes.tmp", ".x.1.tmp"}


@pytest.mark.parametrize("name", ["student.safetensors", "metrics.csv", "checkpoint", "report.html"])
def test_a_folder_of_somebodys_files_is_not_written_over(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"holds no run, and a run would overwrite its {name}: choose another"):
        RunFolder(tmp_path, resume=False)
    (tmp_path / name).rename(tmp_path / "notes")
    (tmp_path / "manifest.json").write_text("{}")  # of a run killed before it began
    RunFolder(tmp_path, resume=False).close()
    assert (tmp_path / "notes").is_dir()


def test_new_folders_are_numbered(tmp_path):
    assert new_folder(tmp_path, "ddad").name == "ddad-001"
    (tmp_path / "ddad-001").mkdir()
    (tmp_path / "ddad-002").symlink_to(tmp_path / "nowhere")  # taken, though it leads nowhere
    assert new_folder(tmp_path, "ddad").name == "ddad-003"


# ---------------------------------------------------------------- checkpoints


class Run:
    """A bank that fills with known pixels, its checkpoints, and a state to go with them."""

    def __init__(self, folder, capacity=8):
        self.folder = folder
        self.bank = ImageBank(capacity, 1, (1, 2))
        self.checkpoints = Checkpoints(folder)

    def add(self, n):
        numbers = torch.arange(self.bank.added, self.bank.added + n)
        self.bank.add(numbers.view(-1, 1, 1, 1).expand(-1, 1, 1, 2) / 255, numbers)

    def save(self, step):
        content = {"engine": {"w": torch.full((3,), float(step))}, "added": self.bank.added}
        self.checkpoints.save(step, content, {"images": self.bank})

    def shards(self):
        return sorted((p.name for p in self.folder.glob("bank-*")), key=lambda n: int(n.split("-")[2]))


def restored(folder, capacity=8):
    run = Run(folder, capacity)
    content = run.checkpoints.load({"images": run.bank})
    run.bank.added = content["added"]
    return run, content


def assert_same(run, expected_step):
    other, content = restored(run.folder, run.bank.capacity)
    assert torch.equal(content["engine"]["w"], torch.full((3,), float(expected_step)))
    n = len(run.bank)
    assert torch.equal(other.bank.pixels[:n], run.bank.pixels[:n])
    assert torch.equal(other.bank.labels[:n], run.bank.labels[:n])
    return other


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "checkpoint")
    run.add(3)
    run.save(1)
    return run


def test_nothing_saved_is_nothing_to_load(tmp_path):
    assert Checkpoints(tmp_path).load({}) is None
    assert Checkpoints(tmp_path / "none").load({}) is None


def test_what_was_saved_comes_back(run):
    assert_same(run, 1)
    index = json.loads((run.folder / "latest.json").read_text())
    assert json.loads((run.folder / "index-1.json").read_text()) == index
    names = ["bank-images-0-3.safetensors", "state-1.pt"]
    assert index["files"] == {n: hashlib.sha256((run.folder / n).read_bytes()).hexdigest() for n in names}
    assert len(index.pop("sum")) == 64
    del index["files"]
    assert index == {"schema": 2, "step": 1, "state": "state-1.pt", "banks": {"images": [[0, 3]]}}


def test_shards_are_written_once(run):
    (first,) = run.folder.glob("bank-*")
    before = first.stat()
    run.add(2)
    run.save(2)
    assert run.shards() == ["bank-images-0-3.safetensors", "bank-images-3-5.safetensors"]
    run.save(3)  # nothing was added
    assert len(run.shards()) == 2
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert sorted(p.name for p in run.folder.glob("state-*")) == ["state-2.pt", "state-3.pt"]
    assert_same(run, 3)


@pytest.mark.parametrize("sizes", [[4, 4, 1], [8, 8], [5, 5, 5, 5], [1] * 19, [3, 3, 3, 8, 2], [7, 8, 8, 8]])
def test_the_ring_drops_what_it_has_overwritten(tmp_path, sizes):
    run = Run(tmp_path / "checkpoint")
    before = 0
    for i, n in enumerate(sizes):
        run.add(n)
        run.save(i)
        assert_same(run, i)
        bounds = [tuple(int(v) for v in name[:-12].split("-")[2:]) for name in run.shards()]
        # Each holds an image that is still there, or was at the checkpoint before.
        assert all(stop > before - 8 for _, stop in bounds)
        before = run.bank.added


def test_more_than_a_bank_full_between_two_checkpoints(run):
    for _ in range(5):
        run.add(7)
    run.save(2)
    assert run.shards() == ["bank-images-0-3.safetensors", "bank-images-30-38.safetensors"]
    assert_same(run, 2)
    run.save(3)
    assert run.shards() == ["bank-images-30-38.safetensors"]
    assert_same(run, 3)


def test_a_resumed_run_goes_on_with_the_shards_there_are(run):
    other = assert_same(run, 1)
    first = next(run.folder.glob("bank-*")).stat().st_mtime_ns
    other.add(2)
    other.save(2)
    assert other.shards() == ["bank-images-0-3.safetensors", "bank-images-3-5.safetensors"]
    assert (run.folder / "bank-images-0-3.safetensors").stat().st_mtime_ns == first
    assert_same(other, 2)


def test_two_banks(tmp_path):
    banks = {"a": ImageBank(4, 1, (1, 1)), "b": ImageBank(4, 1, (1, 1))}
    banks["a"].add(torch.full((2, 1, 1, 1), 1.0))
    banks["b"].add(torch.full((1, 1, 1, 1), 0.2))
    Checkpoints(tmp_path).save(1, {}, banks)
    fresh = {k: ImageBank(4, 1, (1, 1)) for k in banks}
    Checkpoints(tmp_path).load(fresh)
    assert [fresh[k].pixels.flatten().tolist() for k in "ab"] == [[255, 255, 0, 0], [51, 0, 0, 0]]


# ---------------------------------------------------------------- killed, full, corrupt


def test_killed_before_the_index_was_replaced(run):
    """All of the next checkpoint is there but its index: the former one counts, and the next save tidies up."""
    (run.folder / "state-2.pt").write_bytes((run.folder / "state-1.pt").read_bytes()[:50])
    (run.folder / ".state-2.pt.77.tmp").write_bytes(b"half")
    (run.folder / "bank-images-3-5.safetensors").write_bytes(b"half")
    other = assert_same(run, 1)
    other.add(2)
    other.save(2)
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "bank-images-0-3.safetensors", "bank-images-3-5.safetensors", "index-1.json", "index-2.json", "latest.json",
        "state-1.pt", "state-2.pt",
    ]  # fmt: skip
    assert_same(other, 2)


def test_a_folder_that_is_not_ours_is_left_alone(run):
    (run.folder / "mine").mkdir()
    for name in ("best.pt", "state.pt", "notes.tmp"):
        (run.folder / name).write_text("somebody's")
    run.save(2)
    assert (run.folder / "mine").is_dir()
    assert all((run.folder / name).read_text() == "somebody's" for name in ("best.pt", "state.pt", "notes.tmp"))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_a_bank_is_written_in_pieces(rows, tmp_path, monkeypatch):
    bank, images = ImageBank(7, 1, (2, 2), k=3), torch.rand(9, 1, 2, 2)
    monkeypatch.setattr("dreamstill.runs.checkpoints.SHARD", rows * bank.row_bytes)
    assert bank.row_bytes == 4 + 8 + 6
    checkpoints = Checkpoints(tmp_path)
    bank.add(images[:4], torch.arange(4))
    checkpoints.save(1, {}, {"b": bank})
    bank.add(images[4:], torch.arange(4, 9))
    checkpoints.save(2, {}, {"b": bank})
    assert max(p.stat().st_size for p in tmp_path.glob("bank-*")) < 400 + rows * bank.row_bytes
    assert len(list(tmp_path.glob("bank-*"))) == {1: 9, 3: 4, 100: 2}[rows]
    again = ImageBank(7, 1, (2, 2), k=3)
    Checkpoints(tmp_path).load({"b": again})
    assert torch.equal(again.pixels, bank.pixels)
    assert torch.equal(again.labels, bank.labels)


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_full_disk_leaves_the_former_checkpoint(run, monkeypatch, failing, at):
    """At the bank's shard, at the state or at the index; at the index's copy the new one is complete."""
    calls = []

    def full(real):
        def call(*args):
            calls.append(args)
            if len(calls) == at:
                if failing == "write":
                    real(args[0], args[1][:5])  # a part of it fits
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        return call

    where, name = {"write": (files, "_write"), "fsync": (os, "fsync"), "replace": (os, "replace")}[failing]
    run.add(2)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, full(getattr(where, name)))
        with pytest.raises(InputError, match=r"No space left on device.*what was there before is unchanged"):
            run.save(2)
    assert len(calls) == at
    assert not list(run.folder.glob(".*.tmp"))
    other, content = restored(run.folder)
    assert content["added"] == (5 if at == 4 else 3)
    assert other.bank.labels[:4].tolist() == [0, 1, 2, 3 if at == 4 else -1]
    run.save(2)  # and when there is space again, so is the next checkpoint
    assert_same(run, 2)


def damaged(file, how):
    content = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x80\x02garbage\xff" * 20, "gone": b"",
         "flipped": content[:-1] + bytes([content[-1] ^ 1])}[how]
    )  # fmt: skip
    if how == "gone":
        file.unlink()


DAMAGE = ["empty", "cut", "garbage", "flipped", "gone"]


@pytest.mark.parametrize("name", ["state-1.pt", "bank-images-0-3.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_the_only_checkpoint_is_named(run, name, damage):
    damaged(run.folder / name, damage)
    with pytest.raises(InputError, match=rf"cannot be read \({name} is (damaged|missing)"):
        restored(run.folder)


@pytest.mark.parametrize("name", ["state-2.pt", "bank-images-3-5.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(run, name, damage, capsys):
    run.add(2)
    run.save(2)
    damaged(run.folder / name, damage)
    other, content = restored(run.folder)
    assert (content["added"], other.bank.labels[:4].tolist()) == (3, [0, 1, 2, -1])
    assert f"{name} is " in (said := capsys.readouterr().out)
    assert "going on from the checkpoint of iteration 1, which is whole" in said
    other.add(4)
    other.save(4)
    assert_same(other, 4)
    assert capsys.readouterr().out == ""
    assert not (run.folder / "state-2.pt").exists()


@pytest.mark.parametrize("name", ["latest.json", "index-1.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_either_copy_of_the_index_is_enough(run, name, damage, capsys):
    damaged(run.folder / name, damage)
    assert_same(run, 1)
    if (name, damage) != ("index-1.json", "gone"):
        assert f"{name} is " in capsys.readouterr().out


def test_without_any_index_nothing_is_begun_or_swept_away(run):
    """A run that began at 0 here, without a word, removed the good state at its first save."""
    for name in ("latest.json", "index-1.json"):
        (run.folder / name).unlink()
    with pytest.raises(InputError, match=r"cannot be read \(latest.json is missing\)"):
        restored(run.folder)
    assert (run.folder / "state-1.pt").exists()


def test_killed_in_the_first_save_there_is_no_checkpoint_yet(tmp_path, monkeypatch):
    run = Run(tmp_path / "checkpoint")
    run.add(3)

    class Killed(BaseException):
        pass

    def kill(path, index):
        if path.name == "index-1.json":
            raise Killed
        write_index(path, index)

    with monkeypatch.context() as patch:
        patch.setattr(written, "write_index", kill)
        with pytest.raises(Killed):
            run.save(1)
    assert (run.folder / "state-1.pt").exists()
    assert Run(run.folder).checkpoints.load({"images": run.bank}) is None
    run.save(1)
    assert_same(run, 1)


def test_a_single_flipped_bit_in_any_file_is_recovered_from_or_refused(tmp_path, capsys):
    run = Run(tmp_path / "checkpoint")
    for step in (1, 2):
        run.add(2)
        run.save(step)
    draw = random.Random(0)
    outcomes = Counter()
    for file in sorted(run.folder.iterdir()):
        whole = file.read_bytes()
        for _ in range(25):
            at = draw.randrange(8 * len(whole))
            flipped = bytearray(whole)
            flipped[at // 8] ^= 1 << at % 8
            file.write_bytes(flipped)
            try:
                other, content = restored(run.folder)
            except InputError as error:
                outcomes["refused" if file.name in str(error) else "unnamed"] += 1
            else:
                step = int(content["engine"]["w"][0])
                outcomes["newest" if step == 2 else "before"] += 1
                assert torch.equal(content["engine"]["w"], torch.full((3,), float(step)))
                assert other.bank.labels.tolist() == [*range(2 * step), *[-1] * (8 - 2 * step)]
                assert torch.equal(other.bank.pixels[: 2 * step], run.bank.pixels[: 2 * step])
            file.write_bytes(whole)
            capsys.readouterr()
    # The indices have each other; the oldest shard belongs to both checkpoints; of the newest state nothing loads.
    assert outcomes == {"newest": 100, "before": 50, "refused": 25}


@pytest.mark.parametrize(
    "index",
    ["[]", "{}", '{"state": "state-1.pt"}', '{"state": 3, "banks": {}}', "[" * 100_000,
     '{"schema": 1, "step": 1, "state": "../state-1.pt", "banks": {}}',
     '{"schema": 1, "step": 1, "state": "state-1.pt", "banks": {"../images": [[0, 3]]}}'],
)  # fmt: skip
def test_an_index_that_names_nothing(run, index):
    (run.folder / "latest.json").write_text(index)
    (run.folder / "index-1.json").unlink()
    with pytest.raises(InputError, match=r"cannot be read \(latest.json is damaged"):
        restored(run.folder)


def test_a_checkpoint_of_a_version_that_kept_no_sums(run, capsys):
    (run.folder / "index-1.json").unlink()
    old = {"schema": 1, "step": 1, "state": "state-1.pt", "banks": {"images": [[0, 3]]}}
    (run.folder / "latest.json").write_text(json.dumps(old, indent=2))
    other = assert_same(run, 1)
    other.add(2)
    other.save(2)
    assert_same(other, 2)
    assert other.shards() == ["bank-images-0-3.safetensors", "bank-images-3-5.safetensors"]


def test_a_state_that_would_execute_code_is_refused(run):
    torch.save(Run, run.folder / "state-1.pt")
    with pytest.raises(InputError, match="cannot be read"):
        restored(run.folder)


def test_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not write"):
        files.atomic_write(tmp_path / "file" / "x", "content")


# ---------------------------------------------------------------- the manifest


def test_the_manifest_says_what_is_needed_to_do_it_again(monkeypatch):
    monkeypatch.setattr("sys.argv", ["dreamstill", "distill", "--out", "my runs/1"])
    got = manifest(["class counts"], Weights("t.pt", "ab12"), 7, {"cpu": "x"})
    assert got["schema"] == 1
    assert got["command"] == "dreamstill distill --out 'my runs/1'"
    assert got["versions"].keys() == {"python", "dreamstill", "torch", "lightning", "numpy", "safetensors"}
    assert got["versions"]["torch"] == torch.__version__.split("+")[0] or got["versions"]["torch"] == torch.__version__
    assert (got["seed"], got["teacher_sha256"], got["teacher_file"]) == (7, "ab12", "t.pt")
    assert got["outside_information"] == ["class counts"]
    assert got["hardware"] == {"cpu": "x"}
    assert got["threads"] == torch.get_num_threads()
    json.dumps(got, allow_nan=False)


@pytest.mark.parametrize(
    ("answers", "commit"),
    [([(0, "abc\n"), (0, "")], "abc"), ([(0, "abc\n"), (0, " M x\n")], "abc-modified"), ([(128, "")], None)],
)
def test_the_commit_is_marked_when_files_differ(monkeypatch, answers, commit):
    answers = iter(answers)

    def git(command, **_):
        code, said = next(answers)
        return subprocess.CompletedProcess(command, code, said)

    monkeypatch.setattr(subprocess, "run", git)
    assert _commit() == commit


def test_without_git_there_is_no_commit(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError(2, "git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert _commit() is None


@pytest.mark.parametrize("name", ["student.onnx", "model.safetensors", "samples.png", "comparison.png", "summary.json",
                                  "transfer.parquet", "images.safetensors", "tensorboard"])  # fmt: skip
def test_whatever_a_run_writes_is_not_written_over(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"would overwrite its {name}"):
        RunFolder(tmp_path, resume=False)
