"""Run as a process that the kill test kills: a small distillation through the public function.

``--slow-writes`` makes every file appear in pieces with pauses, so that a kill lands inside a checkpoint's write.
"""

import os
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.networks import tiny_network

import dreamstill
from dreamstill import files

torch.set_num_threads(1)


def write_slowly(handle, data):
    for piece in range(0, len(data), max(1, len(data) // 4)):
        handle.write(data[piece : piece + max(1, len(data) // 4)])
        handle.flush()
        time.sleep(0.004)


def main(out, resume):
    if "--slow-writes" in sys.argv:
        files._write = write_slowly
    dreamstill.distill(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), steps=240, seed=5, out=out, resume=resume, quiet=True,
        onnx=False,
        method={"name": "ddad", "batch_size": 8, "nz": 8, "width": 4, "student_steps": 2, "replay": 0.5, "bank": 100},
        checkpoint_steps=3, precision="32", compile="off", device="cpu",
    )  # fmt: skip


if __name__ == "__main__":
    print("ready", flush=True)
    main(sys.argv[1], resume=os.path.exists(Path(sys.argv[1]) / "config.yaml"))
