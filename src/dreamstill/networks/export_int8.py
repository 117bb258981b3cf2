"""An ONNX file with weights and activations of 8 bits: static quantisation by onnxruntime.

The ranges of the activations are read off some images. Scales are one a channel for the weights. These have 7 of the 8
bits: processors without an instruction for products of bytes (VNNI) add pairs of them in 16 bits, which 8 would exceed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dreamstill import extras
from dreamstill.errors import InputError, first_line
from dreamstill.networks.export_onnx import quiet
from dreamstill.networks.pixels import to_float

_BATCH = 16  # images whose activations are held at a time


def write_int8(source: Path, path: Path, pixels: Tensor) -> None:
    """Quantise an ONNX file that :func:`dreamstill.networks.export_onnx.export_onnx` wrote.

    Args:
        source: the file in float32.
        path: the file to write, with the same input, output and metadata.
        pixels: images for calibration (uint8 ``n c h w``).

    Raises:
        InputError: onnxruntime cannot quantise it, or a library is missing.
    """
    extras.require("onnx", "quantisation")
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet(), tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8-") as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        try:
            # Constants are folded and batch norms merged, so that what is quantised is what would run.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared), str(path), _reader(pixels), quant_format=QuantFormat.QDQ, per_channel=True,
                reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        except Exception as error:  # whatever the quantiser meets in somebody's network
            raise InputError(
                f"onnxruntime cannot quantise {source.name} ({type(error).__name__}: {first_line(error)}): deploy it "
                "in float32 (--format onnx)"
            ) from error
        model, original = onnx.load(str(path)), onnx.load(str(source))
        del model.metadata_props[:]
        model.metadata_props.extend(original.metadata_props)
        model.producer_name = original.producer_name
        onnx.save(model, str(path))


def _reader(pixels: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(pixels.split(_BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {"images": to_float(batch).numpy()}

    return Reader()
