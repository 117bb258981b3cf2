"""An ONNX file that was written here, asked by onnxruntime as torch is asked."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dreamstill import extras
from dreamstill.networks.parity import Answers


def onnx_answers(path: Path, threads: int | None = None) -> Answers:
    """Logits of images (``b c h w`` in [0, 1]) by a file whose input is ``images`` and output ``logits``, on the CPU.

    Args:
        path: the file.
        threads: of the CPU; torch's own number without it.
    """
    extras.require("onnx", f"reading {path}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def answers(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.float().contiguous().numpy()})
        return torch.from_numpy(logits)

    return answers
