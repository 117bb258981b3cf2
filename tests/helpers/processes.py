"""Processes of their own, forked from one that has imported what they need: importing torch anew takes seconds each."""

import multiprocessing
import os
import socket
import sys
from pathlib import Path

from dreamstill import messages

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["dreamstill.commands.distill", "dreamstill.methods.ddad", "helpers.networks"])


def start(function, *arguments, said=os.devnull, environment=None):
    """A process that calls a function of a module; what it says goes to the file ``said``."""
    process = SERVER.Process(target=_call, args=(function, arguments, str(said), environment or {}), daemon=True)
    process.start()
    return process


def _call(function, arguments, said, environment):
    os.environ.update(environment)
    with open(said, "w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        # Multiprocessing writes what an error says after this function's end.
        os.dup2(file.fileno(), 2)
        messages.to_terminal()
        try:
            function(*arguments)
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def finish(process, said=None, seconds=200):
    """Wait for a process that has to succeed."""
    process.join(seconds)
    assert process.exitcode == 0, Path(said).read_text()[-3000:] if said else process.exitcode


def two_ranks(folder, function, *arguments):
    """What torchrun does for two processes on one machine."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none",
    }  # fmt: skip
    said = [folder / f"said-{rank}.txt" for rank in (0, 1)]
    processes = [
        start(function, *arguments, said=said[rank], environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    for process, file in zip(processes, said, strict=True):
        finish(process, file)
