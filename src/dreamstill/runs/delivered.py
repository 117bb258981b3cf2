"""The network that a run delivered, built again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dreamstill.networks.load import FACTS, checkpoint_file, load_network, resolve
from dreamstill.networks.network import Network
from dreamstill.networks.reused_classifier import NAME
from dreamstill.networks.state_dicts import read_state


def delivered(run: str, student: Any = None, unsafe: bool = False, trust: bool = False) -> Network:
    """The network of a run, built as the run says or as was said now, in eval mode.

    Args:
        run: the folder, or a ``.safetensors`` file that dreamstill wrote.
        student: where the network was given in Python: ``package.module:factory``, or such a module.
        unsafe: load pickles too; see :func:`dreamstill.networks.state_dicts.read_state`.
        trust: import the code that the file names.
    """
    if isinstance(student, nn.Module):
        return load_network(run, student)
    if student is None:
        return load_network(run, unsafe=unsafe, trust=trust)
    about = read_state(checkpoint_file(Path(run))).description
    facts: dict[str, Any] = {key: about.get(key) for key in FACTS}
    kwargs = {} if about.get("name") == NAME else about.get("kwargs")  # those of the classifier that it shares
    built = resolve(student, None, kwargs=kwargs, unsafe=unsafe, role="student", **facts)
    return load_network(run, built.module)
