"""A run killed at any moment and taken up again gives the same bits as one that was left alone."""

import os
import random
import signal
import time

import distil
import pytest
from helpers.processes import finish, start
from safetensors import safe_open
from safetensors.torch import load_file

# In one of the processes that tests are shared among: what the tests look at is made once.
pytestmark = pytest.mark.xdist_group("kill")


def begin(folder, slow_writes=False):
    return start(distil.main, str(folder), slow_writes, said=said(folder))


def said(folder):
    return folder.with_suffix(".txt")


def wait_for(condition, process, folder):
    while not condition():
        assert process.is_alive(), said(folder).read_text()[-2000:]
        time.sleep(0.001)


def step_of(folder):
    states = sorted((folder / "checkpoint").glob("state-*.pt"), key=lambda p: int(p.stem.split("-")[1]))
    return int(states[-1].stem.split("-")[1]) if states else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(begin(folder), said(folder))
    return load_file(folder / "student.safetensors")


@pytest.mark.slow
def test_killed_again_and_again_and_resumed(whole, tmp_path):
    folder, moments = tmp_path / "run", random.Random(0)
    seen_half_written = 0
    for kill in range(4):
        process = begin(folder, slow_writes=True)
        at = step_of(folder) + 3 * moments.randint(1, 3)
        wait_for(lambda at=at: step_of(folder) >= at, process, folder)
        if kill % 2:
            # Inside the next checkpoint's write: its temporary file is there.
            wait_for(lambda: any((folder / "checkpoint").glob(".*.tmp")), process, folder)
        else:
            time.sleep(moments.random() * 0.02)
        process.kill()
        process.join()
        seen_half_written += any((folder / "checkpoint").glob(".*.tmp"))
        assert not (folder / "student.safetensors").exists()
    assert seen_half_written >= 1
    finish(begin(folder), said(folder))
    resumed = load_file(folder / "student.safetensors")
    assert whole.keys() == resumed.keys()
    assert all((whole[k] == resumed[k]).all() for k in whole)
    assert not list((folder / "checkpoint").glob(".*.tmp"))
    steps = [int(line.split(",")[0]) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 75


@pytest.mark.slow
def test_terminated_it_writes_a_checkpoint_and_says_so(whole, tmp_path):
    folder = tmp_path / "run"
    process = begin(folder, slow_writes=True)
    wait_for(lambda: step_of(folder) >= 6, process, folder)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 1  # the worker is a function; the command turns the error into exit code 75
    assert "Stopped: stopped by SIGTERM" in said(folder).read_text()
    finish(begin(folder), said(folder))
    with safe_open(folder / "student.safetensors", "pt") as file:
        assert all((whole[k] == file.get_tensor(k)).all() for k in whole)
