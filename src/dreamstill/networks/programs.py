"""Files that hold a whole network, so that its Python code is not needed: TorchScript, exported programs, ONNX.

The first two may run code of the file's choice. ``torch.jit.load`` and ``torch.export.load`` unpickle, and a
TorchScript program can write files; PyTorch's documentation says never to load such files from a source that one does
not trust. An ONNX file is a list of known operators and runs no code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamstill.errors import InputError, first_line
from dreamstill.networks.file_kinds import PROGRAMS, FileKind
from dreamstill.networks.onnx_lowering import lowered

# The names of such networks. They tell later which kind of file belongs to one.
NAMES: dict[FileKind, str] = {"torchscript": "torchscript", "exported": "exported_program", "onnx": "onnx"}
PICKLED = "pickled_module"


class Program(nn.Module):
    """A program that was exported in eval mode and stays in it.

    Args:
        call: the program.
        batch: how many images it takes at a time; None if it takes any number.
    """

    def __init__(self, call: nn.Module, batch: int | None = None) -> None:
        super().__init__()
        self.call = call
        self.batch = batch

    def forward(self, x: Tensor) -> Any:
        """``b c h w`` to what the program gives, in as many calls as its batch size asks for."""
        if self.batch is None:
            return self.call(x)
        short = -len(x) % self.batch
        padded = torch.cat([x, x[-1:].expand(short, *x.shape[1:])]) if short else x
        parts = [_tensor(self.call(part)) for part in padded.split(self.batch)]
        return torch.cat(parts)[: len(x)]

    def train(self, mode: bool = True) -> Program:
        """Only note the mode. An exported program has one mode, and raises an error if asked for another."""
        self.training = mode
        return self


def _tensor(output: Any) -> Tensor:
    from dreamstill.networks.network import logits_of

    return logits_of(output[0] if isinstance(output, tuple | list) and len(output) == 1 else output)


def read_program(path: Path, kind: FileKind, unsafe: bool) -> nn.Module:
    """The network in a file.

    Raises:
        InputError: it would run code of the file's choice and ``unsafe`` is not set, or it cannot be read.
    """
    what = PROGRAMS[kind]
    if kind != "onnx" and not unsafe:
        raise InputError(
            f"checkpoint {path} is {what}, and loading it can execute code of the file's choice: pass --unsafe-load if "
            "you trust whoever made it, or give the network's state_dict() and name the network"
        )
    readers: dict[FileKind, Callable[[Path], nn.Module]] = {
        "torchscript": _torchscript, "exported": _exported, "onnx": _onnx
    }  # fmt: skip
    try:
        return readers[kind](path)
    except InputError:
        raise
    except Exception as error:  # whatever the readers raise for damaged files and for operators they do not know
        raise InputError(
            f"checkpoint {path} is {what} and cannot be read ({type(error).__name__}: {first_line(error)}). Export it "
            "again with the versions that are installed here"
        ) from error


def _torchscript(path: Path) -> nn.Module:
    with torch.no_grad():
        return torch.jit.load(str(path), map_location="cpu")


def _exported(path: Path) -> nn.Module:
    program = torch.export.load(str(path))
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise InputError(f"checkpoint {path} takes {len(names)} inputs: give a program with one, the images")
    node = next(node for node in program.graph.nodes if node.name == names[0])
    batch = node.meta["val"].shape[0]
    return Program(program.module(), int(batch) if isinstance(batch, int) else None)


def _onnx(path: Path) -> nn.Module:
    try:
        import onnx
        import onnx2torch
    except ImportError as error:
        raise InputError(
            f"checkpoint {path} is an ONNX model, and reading it needs onnx and onnx2torch: pip install onnx onnx2torch"
        ) from error
    model = onnx.load(str(path))
    given = [value for value in model.graph.input if value.name not in {t.name for t in model.graph.initializer}]
    if len(given) != 1:
        raise InputError(f"checkpoint {path} takes {len(given)} inputs: give a model with one, the images")
    first = given[0].type.tensor_type.shape.dim
    batch = first[0].dim_value if first else 0
    program = Program(onnx2torch.convert(lowered(model)), batch or None)
    sides = [d.dim_value for d in first[1:]]
    if len(sides) == 3 and math.prod(sides):
        _check_reading(path, program, given[0].name, torch.rand(batch or 2, *sides))
    return program


def _check_reading(path: Path, program: nn.Module, name: str, images: Tensor) -> None:
    """Hold what was read against onnxruntime, where it is installed.

    Raises:
        InputError: they answer differently.
    """
    try:
        import onnxruntime
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {name: images.numpy()})[0])
    with torch.no_grad():
        got = _tensor(program.eval()(images))
    difference = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= 1e-3:
        raise InputError(
            f"checkpoint {path} is an ONNX model that onnx2torch reads wrongly: its answers differ by {difference:.1e} "
            "of the largest from onnxruntime's; export it again at opset 17"
        )


def facts_of(path: Path, kind: FileKind) -> dict[str, Any]:
    """What an ONNX file says about its images: ``channels`` and ``image_size``, if they are fixed."""
    if kind != "onnx":
        return {}
    try:
        import onnx
    except ImportError:
        return {}
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # read_program says what is wrong
        return {}
    known = {t.name for t in model.graph.initializer}
    dims = [d.dim_value for v in model.graph.input if v.name not in known for d in v.type.tensor_type.shape.dim]
    return {"channels": dims[1], "image_size": dims[2:]} if len(dims) == 4 and math.prod(dims[1:]) else {}
