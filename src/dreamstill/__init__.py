"""dreamstill: data-free knowledge distillation. A trained network in, a small student out, no data.

``dreamstill.methods()`` lists the methods. The package of methods has the same name, so it is the package that answers
the call: ``dreamstill.methods.get("ddad")`` and ``dreamstill.methods()`` both hold, whatever was imported before.

What the command line prints are records of the logger ``dreamstill``; ``logging.basicConfig(level="INFO")`` shows them.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import dreamstill.methods as _methods
from dreamstill import api as _api
from dreamstill.api import bench, compare, demo, distill, doctor, evaluate, export, profile, synthesize, train
from dreamstill.errors import DivergedError, DreamstillError, InputError, Stopped

if TYPE_CHECKING:
    from torch import nn

    from dreamstill.networks.network import Network
    from dreamstill.runs.result import Result

__version__ = "0.1.0"
__all__ = [
    "DivergedError",
    "DreamstillError",
    "InputError",
    "Result",
    "Stopped",
    "bench",
    "compare",
    "demo",
    "distill",
    "doctor",
    "evaluate",
    "export",
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
        return _api.methods(json=json)


if TYPE_CHECKING:
    from dreamstill.api import methods
else:
    methods = _methods
    methods.__class__ = _Methods


def load_teacher(path: str, module: "nn.Module | None" = None, *, trust_code: bool = False) -> "Network":
    """A network from a run folder or a ``.safetensors`` that dreamstill wrote: images in [0, 1] in, logits out.

    Args:
        path: the folder or file.
        module: the network to put the weights into, when it was given in Python and has no name to build it from.
        trust_code: import the ``package.module:factory`` that the file names; for a run that you made on this machine
            it is not needed.
    """
    from dreamstill.networks.load import load_network

    return load_network(path, module, trust=trust_code)


load_student = load_teacher


def __getattr__(name: str) -> Any:
    if name == "Result":  # it imports torch, which importing this package does not
        from dreamstill.runs.result import Result

        return Result
    raise AttributeError(f"module 'dreamstill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
