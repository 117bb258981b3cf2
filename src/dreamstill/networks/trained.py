"""Whether a network that a factory made is trained, or only just initialised."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from dreamstill.networks.network import Network, noise_images, plain_copy
from dreamstill.networks.probes import bn_layers, running_bn


def untrained(network: Network, again: Callable[[], Network]) -> str | None:
    """Why a network's weights cannot be trained ones, as half a sentence; None if nothing speaks against them.

    The network is made a second time under another seed. What differs was drawn at random and not loaded.

    Args:
        network: left as it is.
        again: makes and loads it once more, in the same way.
    """
    with _other_seeds():
        second = again()
    mine, theirs = network.state_dict(), second.state_dict()
    drawn = [k.removeprefix("module.") for k in mine if not _equal(mine[k], theirs.get(k))]
    if drawn:
        names = f"{', '.join(drawn[:3])}{', ...' if len(drawn) > 3 else ''}"
        return f"{len(drawn)} of its {len(mine)} tensors are drawn at random whenever it is made ({names})"
    if _answers_differ(network, second):
        return (
            "made twice with the same weights it gives two answers, so PyTorch does not know some of its layers (they "
            "may be in a plain list in place of nn.ModuleList), and these keep random weights"
        )
    return None


def fresh_batch_norm(network: Network) -> str | None:
    """Names of the batch norms that run, if all still have their initial mean 0 and variance 1; otherwise None."""
    layers = bn_layers(network.module)
    names = running_bn(network)
    for name in names:
        mean, var = layers[name].running_mean, layers[name].running_var
        assert mean is not None
        assert var is not None
        if bool(mean.any()) or not bool((var == 1).all()):
            return None
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else None


def _equal(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and torch.equal(a.cpu().nan_to_num(), b.cpu().nan_to_num())


def _answers_differ(one: Network, other: Network) -> bool:
    images = noise_images(one, 4)
    first, second = plain_copy(one), plain_copy(other)
    try:
        with torch.no_grad():
            answers = [first(images), first(images), second(images)]
    except Exception:  # whatever the user's forward() raises: check_output reports it
        return False
    slack = 1e-4 * float(answers[0].abs().max())
    steady = float((answers[0] - answers[1]).abs().max()) <= slack  # else check_output says so
    return steady and float((answers[0] - answers[2]).abs().max()) > slack


@contextlib.contextmanager
def _other_seeds() -> Iterator[None]:
    """Seed every random stream differently, and restore them afterwards: the user's code may use any of them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([]):
        torch.manual_seed(torch.initial_seed() % 2**31 + 1)
        random.seed(random.random())
        np.random.seed(np.random.randint(2**31))  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
