"""Start the ranks: the processes that torchrun made join one group here, and leave it here."""

from __future__ import annotations

import atexit
import logging
import os

import torch
from lightning.fabric import Fabric

from dreamstill.engine.hardware import Precision, keep_freed_memory

_FABRIC_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


def settle_process() -> None:
    """Set up a process that belongs to dreamstill, as that of the command line. The library does not do this.

    The underlying libraries log less, and freed memory is kept for the next step (:func:`keep_freed_memory`).
    """
    # At every start they say what the user chose, and that there is no CUDA on a machine without CUDA.
    for name in ("lightning.fabric", "lightning.pytorch"):  # the latter says that bf16 was chosen
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    keep_freed_memory()


def launch(device: str, precision: Precision) -> Fabric:
    """A running Fabric for this process, which is one of those that torchrun started, or the only one."""
    local, ranks = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        strategy="ddp" if ranks > 1 else "auto",
        precision=_FABRIC_PRECISION[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    if ranks > 1:
        atexit.register(_leave_group)
    return fabric


def may_be_restarted() -> bool:
    """Whether torchrun starts these processes again when one of them dies.

    It does not tell whether it has: ``TORCHELASTIC_RESTART_COUNT`` is a machine's own count, and differs between them.
    """
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


def _leave_group() -> None:
    """Leave the process group. Fabric does this for NCCL only, and Gloo's threads sometimes abort a process at exit."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
