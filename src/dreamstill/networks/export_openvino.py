"""The student in OpenVINO's form: a graph (``.xml``) and its weights (``.bin``) beside it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamstill.errors import InputError
from dreamstill.networks.export_onnx import METADATA_KEY, export_onnx, quiet
from dreamstill.networks.network import Network
from dreamstill.networks.parity import Answers


def write_openvino(network: Network, path: Path) -> None:
    """Write a network, mean and std inside, with a dynamic batch and float32 weights, by way of ONNX."""
    openvino = _library()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".openvino-") as scratch:
        export_onnx(network, Path(scratch) / "x.onnx")
        with quiet():
            model = openvino.convert_model(Path(scratch) / "x.onnx")
            model.set_rt_info(json.dumps(network.description()), [METADATA_KEY])
            openvino.save_model(model, path, compress_to_fp16=False)


def openvino_answers(path: Path) -> Answers:
    """Logits of images (``b c h w`` in [0, 1]), on the CPU, in float32."""
    compiled = _library().Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def answers(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled({"images": images.float().contiguous().numpy()})["logits"].copy())

    return answers


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise InputError("the export to OpenVINO needs openvino: pip install 'dreamstill[openvino]'") from error
    return openvino
