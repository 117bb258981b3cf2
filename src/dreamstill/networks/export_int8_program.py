"""An exported program with weights and activations of 8 bits, by torchao (PT2E), for torch on x86 processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamstill.errors import InputError, first_line
from dreamstill.networks.export_onnx import quiet
from dreamstill.networks.export_program import example, read_program_answers, save_program, traced
from dreamstill.networks.network import Network
from dreamstill.networks.parity import Answers
from dreamstill.networks.pixels import to_float

_BATCH = 16  # images that are run at a time


def write_int8_program(network: Network, path: Path, pixels: Tensor) -> None:
    """Quantise a network and write it.

    Args:
        network: left as it is.
        path: the file, ``.pt2``; it runs as it is, and fast where torch compiles it.
        pixels: images for calibration (uint8 ``n c h w``).

    Raises:
        InputError: it cannot be traced or quantised, or torchao is missing.
    """
    pt2e, quantizer = _library()
    with quiet():
        try:
            prepared = pt2e.prepare_pt2e(traced(network).module(), quantizer)
            with torch.no_grad():
                for batch in pixels.split(_BATCH):
                    prepared(to_float(batch))
            converted = pt2e.convert_pt2e(prepared)
            program = torch.export.export(
                converted, (example(network),), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}
            )
        except InputError:
            raise
        except Exception as error:  # whatever the quantiser meets in somebody's network
            raise InputError(
                f"torchao cannot quantise {network.name} ({type(error).__name__}: {first_line(error)}): deploy it in "
                "float32 (--format pt2), or quantise by onnxruntime (--format onnx-int8)"
            ) from error
    save_program(program, path, network)


def int8_program_answers(path: Path) -> Answers:
    """Logits of images, by the file, as torch runs it uncompiled."""
    _library()  # it brings the operators
    return read_program_answers(path)


def _library() -> tuple[Any, Any]:
    try:
        from torchao.quantization.pt2e import quantize_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    except ImportError as error:
        raise InputError("--format pt2-int8 needs torchao: pip install 'dreamstill[torchao]'") from error
    return quantize_pt2e, x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
