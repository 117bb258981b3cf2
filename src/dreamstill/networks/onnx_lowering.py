"""ONNX models of today's exporters in the words of an older version, which onnx2torch reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

OPSET = 17  # the newest whose operations onnx2torch has nearly all of
_REDUCTIONS = {
    f"Reduce{kind}" for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
}  # of ReduceSum the axes were an input before


def lowered(model: Any) -> Any:
    """A model (``onnx.ModelProto``) at an opset of at most 17, where its operations say the same there.

    Operations that do not exist there are left for the reader to refuse. The weights are shared with ``model``.
    """
    import onnx

    found = next((o for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if found is None or found.version <= OPSET:
        return model
    constants = _constants(model)
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type == "Gelu" and _attribute(node, "approximate", b"none") == b"none":
            nodes += _gelu(node, onnx)
            continue
        if node.op_type == "Reshape":
            _drop_allowzero(node, constants)
        elif node.op_type in _REDUCTIONS and len(node.input) == 2 and node.input[1] in constants:
            axes = constants[node.input[1]].tolist()
            del node.input[1:]
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
        elif node.op_type == "Split":
            _drop(node, "num_outputs")
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    found.version = OPSET
    return model


def _constants(model: Any) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    # Shapes and axes alone: weights need not be unpacked.
    small = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if math.prod(t.dims) <= 16}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            small[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return small


def _drop_allowzero(node: Any, constants: dict[str, np.ndarray]) -> None:
    """It changes what a 0 in the shape means, and nothing in one without."""
    shape = constants.get(node.input[1])
    if shape is not None and not (shape == 0).any():
        _drop(node, "allowzero")


def _drop(node: Any, name: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _attribute(node: Any, name: str, default: Any) -> Any:
    return next((a.s for a in node.attribute if a.name == name), default)


def _gelu(node: Any, onnx: Any) -> list[Any]:
    """``x / 2 * (1 + erf(x / sqrt 2))``."""
    (x,), (y,) = node.input, node.output
    name = f"{y}_gelu"
    numbers = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}
    parts = [
        onnx.helper.make_node(
            "Constant", [], [f"{name}_{key}"], value=onnx.numpy_helper.from_array(np.array(value, dtype=np.float32))
        )
        for key, value in numbers.items()
    ]
    for kind, inputs, output in (
        ("Div", [x, f"{name}_root"], f"{name}_a"),
        ("Erf", [f"{name}_a"], f"{name}_b"),
        ("Add", [f"{name}_b", f"{name}_one"], f"{name}_c"),
        ("Mul", [x, f"{name}_c"], f"{name}_d"),
        ("Mul", [f"{name}_d", f"{name}_half"], y),
    ):
        parts.append(onnx.helper.make_node(kind, inputs, [output], name=output))
    return parts
