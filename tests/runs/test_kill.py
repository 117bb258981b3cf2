"""A run killed at any moment and taken up again gives the same bits as one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

WORKER = Path(__file__).parents[1] / "workers" / "distil.py"


def start(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(folder), *arguments], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.001)


def step_of(folder):
    states = sorted((folder / "checkpoint").glob("state-*.pt"), key=lambda p: int(p.stem.split("-")[1]))
    return int(states[-1].stem.split("-")[1]) if states else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(folder)
    assert process.wait(120) == 0, process.stderr.read()[-2000:]
    return load_file(folder / "student.safetensors")


@pytest.mark.slow
def test_killed_again_and_again_and_resumed(whole, tmp_path):
    folder, moments = tmp_path / "run", random.Random(0)
    seen_half_written = 0
    for kill in range(4):
        process = start(folder, "--slow-writes")
        at = step_of(folder) + 3 * moments.randint(1, 4)
        wait_for(lambda at=at: step_of(folder) >= at, process)
        if kill % 2:
            # Inside the next checkpoint's write: its temporary file is there.
            wait_for(lambda: any((folder / "checkpoint").glob(".*.tmp")), process)
        else:
            time.sleep(moments.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen_half_written += any((folder / "checkpoint").glob(".*.tmp"))
        assert not (folder / "student.safetensors").exists()
    assert seen_half_written >= 1
    process = start(folder)
    assert process.wait(120) == 0, process.stderr.read()[-2000:]
    resumed = load_file(folder / "student.safetensors")
    assert whole.keys() == resumed.keys()
    assert all((whole[k] == resumed[k]).all() for k in whole)
    assert not list((folder / "checkpoint").glob(".*.tmp"))
    steps = [int(line.split(",")[0]) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 120


@pytest.mark.slow
def test_terminated_it_writes_a_checkpoint_and_says_so(whole, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, "--slow-writes")
    wait_for(lambda: step_of(folder) >= 6, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1  # the worker is a script; the command turns the error into exit code 75
    assert "Stopped: stopped by SIGTERM" in said
    assert start(folder).wait(120) == 0
    with safe_open(folder / "student.safetensors", "pt") as file:
        assert all((whole[k] == file.get_tensor(k)).all() for k in whole)
