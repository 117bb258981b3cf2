"""dreamstill: data-free knowledge distillation. A trained network in, a small student out, no data.

``dreamstill.methods`` is the package of methods; the command of the same name is in ``dreamstill.api``.
"""

from typing import Any

from dreamstill.api import distill, evaluate, synthesize, train

__version__ = "0.1.0"
__all__ = ["distill", "evaluate", "load_student", "load_teacher", "synthesize", "train"]


def load_teacher(path: str, module: Any = None) -> Any:
    """A network from a run folder or a ``.safetensors`` that dreamstill wrote: images in [0, 1] in, logits out.

    Args:
        path: the folder or file.
        module: the network to put the weights into, when it was given in Python and has no name to build it from.
    """
    from dreamstill.networks.load import load_network

    return load_network(path, module)


load_student = load_teacher
