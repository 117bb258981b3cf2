"""What may go wrong around a run, a row each: it ends in one sentence, and going on gives the undisturbed result."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import storm
import torch
from helpers.networks import tiny_network
from helpers.processes import finish, start
from helpers.runs import FIXED, SMALL, distil, stopped_run
from safetensors.torch import load_file

import dreamstill
from dreamstill import files
from dreamstill.engine import Engine
from dreamstill.errors import DivergedError, InputError
from dreamstill.networks.load import save_network
from dreamstill.runs.folder import RunFolder
from dreamstill.runs.metrics_log import Tracker

WRITTEN = [
    "manifest.json", "config.yaml", "metrics.csv", "latest.json", "state-4.pt", "index-4.json", "samples.png",
    "student.safetensors", "summary.json", "report.html",
]  # fmt: skip


def go_on(out, **more):
    settings = {"out": str(out), "quiet": True, **more}
    if (out / "config.yaml").exists():
        return dreamstill.distill(tiny_network((6, 8), 0), tiny_network((3, 4), 1), resume=True, **settings)
    return distil(**settings)


def student(out):
    return load_file(out / "student.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    distil(out, checkpoint_steps=2)
    return student(out)


def same(whole, out):
    found = student(out)
    return whole.keys() == found.keys() and all(torch.equal(whole[k], found[k]) for k in whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code"),
    [(name, errno.ENOSPC) for name in WRITTEN]
    + [(name, code) for name in ("state-4.pt", "summary.json") for code in (errno.EROFS, errno.EFBIG)],
)
def test_a_file_that_cannot_be_written(name, code, whole, tmp_path, monkeypatch):
    """The disk is full, was made read-only, or takes no files of that size."""
    replace, out = os.replace, tmp_path / "run"

    def refuse(source, target):
        if Path(target).name == name:
            raise OSError(code, os.strerror(code))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", refuse)
        with pytest.raises(InputError, match=rf"could not write .*{name} \({os.strerror(code)}\)"):
            distil(out, checkpoint_steps=2)
    assert not list(out.rglob(".*.tmp"))
    assert not (out / "report.html").exists()
    go_on(out)
    assert same(whole, out)


@pytest.mark.parametrize("at", [4, 6])
def test_a_folder_that_is_removed_while_the_run_goes_on(at, tmp_path, monkeypatch):
    out, progress = tmp_path / "run", Tracker.progress

    def remove(self, done, values):
        progress(self, done, values)
        if done == at:
            shutil.rmtree(out)

    monkeypatch.setattr(Tracker, "progress", remove)
    with pytest.raises(InputError, match=r"removed while the run went on|was the run folder removed"):
        distil(out, checkpoint_steps=2)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["state_dict", "weights after an iteration"])
def test_weights_that_are_not_finite(where, tmp_path, monkeypatch):
    if where == "state_dict":
        teacher = tiny_network((6, 8), 0)
        teacher.module.state_dict()["blocks.0.0.weight"][0] = float("inf")
        with pytest.raises(InputError, match=r"NaN or infinite values in blocks.0.0.weight"):
            dreamstill.distill(teacher, tiny_network((3, 4), 1), out=str(tmp_path / "run"), steps=3, **FIXED)
        assert not (tmp_path / "run").exists()
        return
    minimise = Engine.minimise

    def burst(self, *arguments, **more):
        found = minimise(self, *arguments, **more)
        if self.iteration == 4:
            with torch.no_grad():
                next(self.modules["student"].parameters()).fill_(float("nan"))
        return found

    monkeypatch.setattr(Engine, "minimise", burst)
    with pytest.raises(DivergedError):
        distil(tmp_path / "run", checkpoint_steps=2)
    monkeypatch.undo()
    go_on(tmp_path / "run")  # from the last checkpoint, which is good
    assert all(v.isfinite().all() for v in student(tmp_path / "run").values() if v.is_floating_point())


def test_a_teachers_file_that_was_exchanged(tmp_path):
    out, file = tmp_path / "run", tmp_path / "t.safetensors"
    save_network(file, tiny_network((6, 8), 0))
    networks = {"student": tiny_network((3, 4), 1), "teacher_checkpoint": str(file)}
    dreamstill.distill(**networks, method=SMALL, steps=6, checkpoint_steps=2, onnx=False, out=str(out), **FIXED)
    (out / "report.html").unlink()
    save_network(file, tiny_network((6, 8), 7))
    with pytest.raises(InputError, match="the teacher is not the one that the run"):
        dreamstill.distill(student=networks["student"], out=str(out), resume=True, **FIXED)


@pytest.mark.slow
def test_two_runs_on_one_folder(tmp_path):
    out = stopped_run(tmp_path / "run")
    lock = RunFolder(out, resume=True)
    with pytest.raises(InputError, match="being written by another process"):
        go_on(out)
    lock.close()
    go_on(out)


def test_a_limit_on_the_size_of_files(tmp_path):
    """As quotas set one: of a process, because it holds to its end."""
    said, run = tmp_path / "said.txt", ("ddad", str(tmp_path / "run"), str(tmp_path))
    limited = start(storm.process, *run, 20_000, said=said)
    limited.join(200)
    assert limited.exitcode == 2, said.read_text()[-2000:]
    assert "could not write" in said.read_text()
    assert "File too large" in said.read_text()
    assert "Traceback" not in said.read_text()
    finish(start(storm.process, *run, said=said), said)
    assert (tmp_path / "run" / "report.html").exists()
