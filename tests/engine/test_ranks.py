"""Two processes with half the batch each give what one process gives, batch norm included."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKERS = Path(__file__).parents[1] / "workers"
sys.path.insert(0, str(WORKERS))
import ranks  # noqa: E402


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(WORKERS / "ranks.py"), str(folder)], capture_output=True, text=True, timeout=280, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ranks.CASES)
def test_two_processes_equal_one(name, two_processes):
    alone, _ = ranks.train(name)
    for rank in (0, 1):
        together = torch.load(two_processes / f"{name}-{rank}.pt", weights_only=True)
        assert together.keys() == alone.keys()
        for key, value in alone.items():
            if value.dtype == torch.uint8:
                # A pixel exactly between two values may be rounded either way.
                assert (together[key].int() - value.int()).abs().max() <= 1, key
            else:
                assert (together[key].double() - value.double()).abs().max() < 1e-8, key


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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(launcher, words):
        done = subprocess.run(
            [sys.executable, "-m", *launcher, *words], capture_output=True, text=True, timeout=200, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]

    command(["dreamstill"], [*train, "--out", str(tmp_path / "teacher"), "--quiet"])
    command(["dreamstill"], [*common, "--out", str(tmp_path / "one")])
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "-m", "dreamstill"]
    command(launcher, [*common, "--out", str(tmp_path / "two")])
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    assert all((one[k].double() - two[k].double()).abs().max() < 1e-8 for k in one)
    assert (tmp_path / "two" / "report.html").exists()
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["processes"] == 2
    assert summary["total_flops"] == json.loads((tmp_path / "one" / "summary.json").read_text())["total_flops"] > 0
    assert sum(summary["class_histogram"]) == 1000
