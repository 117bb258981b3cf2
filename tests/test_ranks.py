"""Two processes with half the batch each give what one process gives, batch norm included."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamstill import methods

WORKERS = Path(__file__).parent / "workers"
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
@pytest.mark.parametrize("name", sorted(methods.names()))
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
