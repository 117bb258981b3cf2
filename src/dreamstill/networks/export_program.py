"""The student as an exported program (``.pt2``): torch alone runs it, without the code of the network."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamstill.errors import InputError
from dreamstill.networks.export_onnx import quiet, reason
from dreamstill.networks.network import Network, plain_copy
from dreamstill.networks.parity import Answers

DESCRIPTION = "dreamstill.json"  # in the file: what :meth:`Network.description` says


def write_program(network: Network, path: Path) -> None:
    """Write a network, mean and std inside, with a dynamic batch.

    Raises:
        InputError: its forward pass cannot be traced.
    """
    program = traced(network)
    save_program(program, path, network)


def save_program(program: torch.export.ExportedProgram, path: Path, network: Network) -> None:
    """Write an exported program with the network's description, and without paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    with quiet():
        torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(network.description())})


def read_program_answers(path: Path) -> Answers:
    """Logits of images, by the file."""
    with quiet():
        module: nn.Module = torch.export.load(path).module()
    return module


def example(network: Network) -> Tensor:
    """Two images to trace a network with."""
    return torch.rand(2, network.channels, *network.image_size, generator=torch.Generator().manual_seed(0))


def traced(network: Network) -> torch.export.ExportedProgram:
    """A network as a graph that takes any batch; the network is left as it is."""
    batch = torch.export.Dim("batch", min=1)
    with quiet(), torch.random.fork_rng(devices=[]):
        try:
            return torch.export.export(plain_copy(network), (example(network),), dynamic_shapes={"images": {0: batch}})
        except Exception as error:  # whatever somebody's forward() raises
            raise InputError(
                f"{network.name} could not be exported ({reason(error)}): its forward pass must be traceable for any "
                "batch size"
            ) from error
