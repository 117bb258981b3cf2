"""dreamstill: data-free knowledge distillation. A trained network in, a small student out, no data.

``dreamstill.methods()`` lists the methods. The package of methods has the same name, so it is the package that answers
the call: ``dreamstill.methods.get("ddad")`` and ``dreamstill.methods()`` both hold, whatever was imported before.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import dreamstill.methods as _methods
from dreamstill import api
from dreamstill.api import bench, demo, distill, doctor, evaluate, profile, synthesize, train

if TYPE_CHECKING:
    from torch import nn

    from dreamstill.networks.network import Network

__version__ = "0.1.0"
__all__ = [
    "bench",
    "demo",
    "distill",
    "doctor",
    "evaluate",
    "load_student",
    "load_teacher",
    "methods",
    "profile",
    "synthesize",
    "train",
]


class _Methods(ModuleType):
    """The package of methods. Calling it lists them."""

    def __call__(self, *, json: bool = False) -> list[dict[str, Any]]:
        return api.methods(json=json)


if TYPE_CHECKING:
    from dreamstill.api import methods
else:
    methods = _methods
    methods.__class__ = _Methods


def load_teacher(path: str, module: "nn.Module | None" = None) -> "Network":
    """A network from a run folder or a ``.safetensors`` that dreamstill wrote: images in [0, 1] in, logits out.

    Args:
        path: the folder or file.
        module: the network to put the weights into, when it was given in Python and has no name to build it from.
    """
    from dreamstill.networks.load import load_network

    return load_network(path, module)


load_student = load_teacher
