"""Two processes with half the batch each give what one process gives, batch norm included."""

import json
import os
import socket
import subprocess
import sys

import pytest
import ranks
import torch
from helpers.processes import two_ranks
from safetensors.torch import load_file

from dreamstill import cli

# In one of the processes that tests are shared among: what the tests look at is made once.
pytestmark = pytest.mark.xdist_group("ranks")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    two_ranks(folder, ranks.main, str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ranks.CASES)
def test_two_processes_equal_one(name, two_processes, monkeypatch):
    monkeypatch.setitem(ranks.run.__globals__, "COUNTED", 1)
    alone, _ = ranks.train(name)
    for rank in (0, 1):
        together = torch.load(two_processes / f"{name}-{rank}.pt", weights_only=True)
        assert together.keys() == alone.keys()
        for key, value in alone.items():
            if value.dtype == torch.uint8:
                # A pixel exactly between two values may be rounded either way.
                assert (together[key].int() - value.int()).abs().max() <= 1, key
            else:
                # Sums of halves are rounded otherwise, 1e-15 of a gradient; of one that is zero but for that, Adam's
                # epsilon of 1e-8 makes a step of 1e-10 at a rate of 1e-3: 1e-9 in a dozen steps, magnified by SGD's.
                # Fast's first weights learn from differences of weights. For a bias before a batch norm they are 1e-10,
                # all of it rounding, and Adam makes 1e-2 of a step of them: no image and no student changes by that.
                most = 1e-3 if name == "fast" and key.startswith(("first.", "generator.")) else 1e-8
                assert (together[key].double() - value.double()).abs().max() < most, key


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path):
    """The whole run, from the command to the report: what only one rank does must not leave the other waiting."""
    tiny = [
        "--student-args",
        "{widths: [4, 8]}",
        "--method.batch-size",
        "16",
        "--method.nz",
        "8",
        "--method.width",
        "4",
    ]
    common = [
        "distill",
        "--teacher-checkpoint",
        str(tmp_path / "teacher"),
        "--student",
        "convnet",
        *tiny,
        "--steps",
        "20",
    ]
    common += ["--data", "digits", "--precision", "64", "--no-onnx", "--device", "cpu", "--evaluations", "2", "--quiet"]
    train = ["train", "convnet", "--network-args", "{widths: [8, 16]}", "--data", "digits", "--epochs", "1"]
    assert cli.main([*train, "--out", str(tmp_path / "teacher"), "--quiet"]) == 0
    assert cli.main([*common, "--out", str(tmp_path / "one")]) == 0
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    command = [*launcher, "-m", "dreamstill", *common, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    assert all((one[k].double() - two[k].double()).abs().max() < 1e-8 for k in one)
    assert (tmp_path / "two" / "report.html").exists()
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["processes"] == 2
    assert summary["total_flops"] == json.loads((tmp_path / "one" / "summary.json").read_text())["total_flops"] > 0
    assert sum(summary["class_histogram"]) == 1000
