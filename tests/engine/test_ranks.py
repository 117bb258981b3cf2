"""Two processes with half the batch each give what one process gives, batch norm included."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
from helpers.networks import tiny_network
from helpers.processes import two_ranks
from safetensors.torch import load_file

from dreamstill import cli
from dreamstill.networks.load import save_network

WORKERS = Path(__file__).parents[1] / "workers"

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
def test_the_command_on_two_machines_of_which_one_dies(tmp_path):
    """From the command to the report; the process that was killed comes back, and so does the run.

    The machines are two torchrun on one: each starts one process, and they meet at an address. What only one process
    does, as scoring and the report, must not leave the other waiting.
    """
    common = [
        "distill", "--teacher-checkpoint", str(tmp_path / "teacher.safetensors"), "--student", "convnet",
        "--student-args", "{widths: [3, 4]}", "--method", "ddad", "--method.batch-size", "16", "--method.nz", "8",
        "--method.width", "4", "--method.student-steps", "2", "--steps", "12", "--checkpoint-steps", "1",
        "--precision", "64", "--no-onnx", "--device", "cpu", "--quiet",
    ]  # fmt: skip
    save_network(tmp_path / "teacher.safetensors", tiny_network((6, 8), 0))
    assert cli.main([*common, "--out", str(tmp_path / "one")]) == 0
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{s.getsockname()[1]}"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=1"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint={meeting}", "--rdzv-id=test", "--local-addr=127.0.0.1"]
    command = [*launcher, str(WORKERS / "elastic.py"), *common, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    said = [tmp_path / "said-0.txt", tmp_path / "said-1.txt"]
    machines = []
    for file in said:
        with file.open("w") as handle:
            machines.append(subprocess.Popen(command, stdout=handle, stderr=handle, env=environment))
    for machine, file in zip(machines, said, strict=True):
        assert machine.wait(200) == 0, file.read_text()[-3000:]
    assert "exitcode: -9" in "".join(file.read_text() for file in said)
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    assert all((one[k].double() - two[k].double()).abs().max() < 1e-8 for k in one)
    assert (tmp_path / "two" / "report.html").exists()
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["processes"] == 2
    assert summary["total_flops"] == json.loads((tmp_path / "one" / "summary.json").read_text())["total_flops"] > 0
    assert sum(summary["class_histogram"]) == 1000
