"""A small distillation through the public function, whole or stopped; what is returned is its student."""

import dreamstill
from helpers.networks import tiny_network

SMALL = {"name": "ddad", "batch_size": 16, "nz": 8, "width": 4, "student_steps": 2}
FIXED = {"precision": "32", "compile": "off", "device": "cpu", "quiet": True}


def distil(out, **changes):
    settings = {"method": SMALL, "steps": 12, "out": str(out), "onnx": False, **FIXED, **changes}
    result = dreamstill.distill(tiny_network((6, 8), 0), tiny_network((3, 4), 1), **settings)
    return result and result.student


def stopped_run(out, checkpoint_steps=2):
    """A run that was cut off after its first checkpoints: its results are taken away again."""
    distil(out, checkpoint_steps=checkpoint_steps)
    for name in ("report.html", "summary.json", "student.safetensors"):
        (out / name).unlink()
    return out
