"""The student as one ONNX file that takes images in [0, 1], checked against torch before it is written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamstill import extras
from dreamstill.errors import InputError, first_line
from dreamstill.files import atomic_write
from dreamstill.networks.network import Network, plain_copy

METADATA_KEY = "dreamstill"
_BATCHES = (1, 7, 32)
_TOLERANCE = 1e-3  # of the largest logit: float32 sums in another order differ by about 1e-6
_TALKATIVE = ("torch", "onnxscript", "onnx_ir", "onnx", "onnxruntime")


def export_onnx(network: Network, path: Path | str) -> dict[str, Any]:
    """Write a network to one ONNX file, mean and std inside.

    The input is ``images`` (float32 ``b c h w``, [0, 1], any batch size), the output is ``logits`` (``b k``, or
    ``b k h w`` for a dense network). The file's metadata holds the network's description as JSON under ``dreamstill``.

    Args:
        network: left as it is; a copy is exported, on the CPU, in float32 and eval mode.
        path: the file; an older one is replaced only by a file that passed the check.

    Returns:
        ``file``, ``opset``, ``max_difference`` (largest difference from torch over batches of 1, 7 and 32, as a share
        of the largest logit), ``input`` (its name, shape and range) and ``bytes``.

    Raises:
        InputError: the network cannot be exported, what was exported answers differently, or a library is missing.
    """
    path = Path(path)
    extras.require("onnx", "the export to ONNX")
    copied = plain_copy(network)
    # Random streams: tracing runs the network.
    with _quiet(), torch.random.fork_rng(devices=[]):
        try:
            model = _model(copied)
            data = model.SerializeToString()
        except Exception as error:
            raise InputError(
                f"{network.name} could not be exported to ONNX ({_reason(error)}): its forward pass must be traceable "
                "and fit one file of 2 GB; go on without the ONNX file (--onnx false)"
            ) from error
        difference = _difference(copied, data)
    if not difference <= _TOLERANCE:  # not ">": NaN must fail too
        raise InputError(
            f"the exported {network.name} differs from torch by {difference:.1e} of its largest logit, expected at "
            f"most {_TOLERANCE:.0e}: its forward pass does something that tracing does not keep. No file was written"
        )
    atomic_write(path, data)
    return {
        "file": path.name,
        "opset": next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        "max_difference": difference,
        "input": {"name": "images", "shape": ["batch", network.channels, *network.image_size], "range": [0, 1]},
        "bytes": len(data),
    }


def _model(network: Network) -> Any:
    """The ONNX model, with the network's description and without the exporter's notes."""
    example = torch.rand(2, network.channels, *network.image_size, generator=torch.Generator().manual_seed(0))
    program = torch.onnx.export(
        network, (example,), dynamo=True, external_data=False, verbose=False, optimize=True,
        input_names=["images"], output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
    )  # fmt: skip
    assert program is not None
    model = program.model_proto
    # The exporter leaves stack traces in every node, with the paths of the machine it ran on.
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for function in model.functions:
        for part in (function, *function.node):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    model.producer_name = "dreamstill"
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(network.description())
    return model


def _difference(network: Network, data: bytes) -> float:
    """Largest difference of onnxruntime's logits from torch's, as a share of the largest logit."""
    try:
        import onnxruntime  # one that is installed and broken must not cost the run either

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        worst = largest = 0.0
        for n in _BATCHES:
            generator = torch.Generator().manual_seed(n)
            images = torch.rand(n, network.channels, *network.image_size, generator=generator)
            with torch.no_grad():
                expected = network(images)
            (got,) = session.run(["logits"], {"images": images.numpy()})
            worst = _larger(worst, (torch.from_numpy(got) - expected).abs())
            largest = _larger(largest, expected.abs())
    except Exception as error:
        raise InputError(
            f"the exported {network.name} does not run in onnxruntime ({_reason(error)}): its forward pass must take "
            "any batch size; no file was written"
        ) from error
    return worst / max(largest, 1e-12)


def _larger(so_far: float, values: Tensor) -> float:
    return float(torch.maximum(torch.tensor(so_far), values.max()))  # unlike max(), it lets NaN through


def _reason(error: Exception) -> str:
    """First line of what lies at the bottom: the exporter wraps the reason in pages of advice."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress, warnings or log lines of the exporter."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] in _TALKATIVE]
    loggers += [logging.getLogger(name) for name in _TALKATIVE]
    before = [(log, log.level) for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in before:
            log.setLevel(level)
