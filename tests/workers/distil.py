"""Run as a process that the kill test kills: a small distillation through the public function.

Slow writes make every file appear in pieces with pauses, so that a kill lands inside a checkpoint's write.
"""

import os
import time
from pathlib import Path

import torch
from helpers.networks import tiny_network

import dreamstill
from dreamstill import files


def write_slowly(handle, data):
    for piece in range(0, len(data), max(1, len(data) // 4)):
        handle.write(data[piece : piece + max(1, len(data) // 4)])
        handle.flush()
        time.sleep(0.004)


def main(out, slow_writes):
    torch.set_num_threads(1)
    if slow_writes:
        files._write = write_slowly
    dreamstill.distill(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), steps=150, seed=5, out=out, quiet=True,
        onnx=False, resume=os.path.exists(Path(out) / "config.yaml"),
        method={"name": "ddad", "batch_size": 8, "nz": 8, "width": 4, "student_steps": 2, "replay": 0.5, "bank": 100},
        checkpoint_steps=3, precision="32", compile="off", device="cpu",
    )  # fmt: skip
