"""Soft targets read off a teacher's weights: which layer, how its units go together, what is drawn from that.

Wang, "Data-Free Knowledge Distillation with Soft Targeted Transfer Set Synthesis", AAAI 2021, models a layer's output
as one multivariate normal whose correlation is the cosine of the units' incoming weights; ZSKD (Nayak et al., ICML
2019, arXiv:1905.08114) models the softmax by a Dirichlet distribution a class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamstill.errors import InputError
from dreamstill.networks.network import Network, plain_copy
from dreamstill.networks.probes import last_linear, without_probes

ZSKD_BETAS = (1.0, 0.1)  # concentrations of ZSKD, each for half of the draws (released code)


class Layer(NamedTuple):
    """A layer whose units are modelled."""

    name: str
    module: nn.Linear | nn.Conv2d
    next: str  # the linear layer that takes its units, after activation and pooling

    @property
    def pooled(self) -> bool:
        """Whether its units are filters, averaged over the map before the next layer takes them."""
        return isinstance(self.module, nn.Conv2d)


def classifier(network: Network) -> str:
    """Dotted name of the last linear layer.

    Raises:
        InputError: there is none.
    """
    name = last_linear(network.module)
    if name is None:
        raise InputError(
            f"{network.name} has no linear layer to read classes off: take space onehot with lambda_a 0, or other "
            "teachers"
        )
    return name


def modelled_layer(network: Network, name: str | None = None) -> Layer:
    """The last hidden linear layer; without one, the last convolution, whose filters are pooled for the classifier.

    Args:
        network: the teacher.
        name: another layer's dotted name, linear or convolution; the next linear layer must take its units.

    Raises:
        InputError: there is no such layer, or its units are not what the next linear layer takes.
    """
    modules = dict(network.module.named_modules())
    candidates = [n for n, m in modules.items() if isinstance(m, nn.Linear | nn.Conv2d)]
    if name is not None:
        if name not in candidates:
            raise InputError(
                f"{network.name} has no linear layer or convolution {name!r}: it has {', '.join(candidates[-8:])}"
            )
        return _followed(network, name)
    last = classifier(network)
    for found in (_hidden(network), _last_convolution(network)):
        if found is not None and _units(modules[found]) == modules[last].in_features:
            return _followed(network, found)
    raise InputError(
        f"{network.name} has neither a hidden linear layer nor a last convolution with the {modules[last].in_features} "
        f"units that {last} takes: name a layer, or take space softmax"
    )


def features(network: Network) -> str:
    """The tap of the features that the last hidden linear layer takes, or without one the classifier."""
    return f"{_hidden(network) or classifier(network)}:input"


def _hidden(network: Network) -> str | None:
    """The linear layer before the classifier, if it is what the classifier takes."""
    linears = [(n, m) for n, m in network.module.named_modules() if isinstance(m, nn.Linear)]
    if len(linears) < 2 or linears[-2][1].out_features != linears[-1][1].in_features:
        return None
    return linears[-2][0]


def _last_convolution(network: Network) -> str | None:
    """The last convolution as the network is run that is no shortcut: whose input no other convolution takes too."""
    copied = plain_copy(network)
    without_probes(copied)
    taken: list[tuple[str, Tensor]] = []  # the tensors are kept, so that each has an identity of its own

    for name, module in copied.module.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: taken.append((name, inputs[0])))
    with torch.no_grad():
        copied(torch.zeros(1, network.channels, *network.image_size))
    alone = [name for name, x in taken if sum(x is other for _, other in taken) == 1]
    names = alone or [name for name, _ in taken]
    return names[-1] if names else None


def linear(network: Network, name: str) -> nn.Linear:
    """The linear layer of that name.

    Raises:
        InputError: it is none, or not there.
    """
    module = dict(network.module.named_modules()).get(name)
    if not isinstance(module, nn.Linear):
        raise InputError(f"{network.name} has no linear layer {name!r}: name one, {classifier(network)} for instance")
    return module


def _followed(network: Network, name: str) -> Layer:
    modules = dict(network.module.named_modules())
    names = list(modules)
    later = [n for n in names[names.index(name) + 1 :] if isinstance(modules[n], nn.Linear)]
    module = modules[name]
    assert isinstance(module, nn.Linear | nn.Conv2d)
    if not later or modules[later[0]].in_features != _units(module):
        takes = f"{later[0]} takes {modules[later[0]].in_features}" if later else "no linear layer follows"
        raise InputError(
            f"{name} has {_units(module)} units and {takes}: name a layer whose units the next linear layer takes"
        )
    return Layer(name, module, later[0])


def _units(module: nn.Module) -> int:
    return int(module.weight.shape[0])  # type: ignore[index]


def unit_rows(weight: Tensor, eps: float = 1e-8) -> Tensor:
    """Each unit's incoming weights (``d ...``) at length 1 (``d m``); a unit without weights keeps zeros.

    ``rows @ rows.T`` is the correlation matrix R (``d d``): in PyTorch a unit is a *row* of a linear weight. And
    ``rows @ eps`` with white noise ``eps`` is an exact draw from N(0, R), however singular R is, without a Cholesky
    factor.
    """
    return F.normalize(weight.detach().flatten(1), dim=1, eps=eps)


def concentrations(weight: Tensor) -> Tensor:
    """ZSKD's class similarities (``k k``, each row from 0 to 1) from the classifier's weight (``k d``).

    Cosines of the class vectors, scaled to [0, 1] over the matrix and then over each row (released code).
    """
    rows = unit_rows(weight)
    c = rows @ rows.T
    c = (c - c.min()) / (c.max() - c.min())
    low, high = c.amin(1, keepdim=True), c.amax(1, keepdim=True)
    return (c - low) / (high - low)


def dirichlet_targets(similarities: Tensor, n: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """``n`` soft targets (``n k``) of ZSKD and the classes (``n``) they were drawn for, in turn, each beta in turn.

    ``first``: how many were drawn before, so that many small batches together have all classes equally often. Draws
    from torch's global stream. Small concentrations underflow in float32, so it runs in float64.
    """
    k = len(similarities)
    index = torch.arange(first, first + n, device=similarities.device)
    betas = torch.tensor(ZSKD_BETAS, dtype=torch.float64, device=similarities.device)[index // k % len(ZSKD_BETAS)]
    concentration = betas[:, None] * similarities.double()[index % k] + 1e-4
    drawn = torch.distributions.Dirichlet(concentration).sample()
    return drawn.to(similarities.dtype), index % k


def shares(targets: Tensor) -> Tensor:
    """Share of each class (``k``) among the likeliest classes of targets (``n k``)."""
    return torch.bincount(targets.argmax(1), minlength=targets.shape[1]) / len(targets)
