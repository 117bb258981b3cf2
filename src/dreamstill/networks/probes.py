"""Look inside any network from outside: feature maps and batch-norm statistics, returned with the logits.

A probe sets its hooks when it is made, that is before anything is compiled: a hook added after the first
compiled call never fires. It returns what it saw; it keeps nothing between calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dreamstill.errors import InputError
from dreamstill.networks.channel_moments import moments
from dreamstill.networks.network import Network, plain_copy


class Moments(NamedTuple):
    """What one batch-norm layer received, and what it remembers of its training data. All ``c``, float32."""

    mean: Tensor
    var: Tensor  # biased, as the layer itself would normalise with
    running_mean: Tensor
    running_var: Tensor


class Observed(NamedTuple):
    """What a probed network returns."""

    logits: Tensor
    taps: dict[str, Tensor]
    moments: list[Moments]


def bn_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """The batch-norm layers that keep running statistics, by dotted name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def running_bn(network: Network) -> list[str]:
    """Names of the batch norms with running statistics that a forward pass runs, in its order.

    A copy runs on blank images. If it fails, all of them count.
    """
    copied, found = plain_copy(network), []
    without_probes(copied)
    layers = bn_layers(copied.module)
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _layer, _inputs, name=name: found.append(name))
    try:
        with torch.no_grad():
            copied(torch.zeros(2, network.channels, *network.image_size))
    except Exception:  # whatever the user's forward() raises: check_output reports it
        return list(layers)
    return list(dict.fromkeys(found))


def declared_taps(module: nn.Module) -> list[str]:
    """The layers that a network lists as its stages in ``taps``, as built-in ones do; empty for any other ``taps``."""
    taps = getattr(module, "taps", None)
    names = dict(module.named_modules())
    if not isinstance(taps, tuple | list) or not all(isinstance(tap, str) and tap in names for tap in taps):
        return []
    return list(taps)


def last_linear(module: nn.Module) -> str | None:
    """Dotted name of the last ``nn.Linear``, the classifier of nearly every network; None if there is none."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return names[-1] if names else None


def _no_average(moment: Tensor) -> Tensor:
    return moment


class _Hook:
    """A probe's hook. The class tells it from the user's own, and a copy of the network does not copy the probe."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Hook:
        return self


def without_probes(module: nn.Module) -> None:
    """Remove all probes' hooks from a network, a copy for instance, in place. Other hooks stay."""
    for layer in module.modules():
        for hooks in (layer._forward_hooks, layer._forward_pre_hooks):
            for key in [k for k, hook in hooks.items() if isinstance(hook, _Hook)]:
                del hooks[key]


def _tapped(network: Network, tap: str) -> tuple[nn.Module, bool]:
    """The layer of a tap, and whether the tap means its input rather than its output."""
    modules = dict(network.module.named_modules())
    name, _, side = tap.partition(":")
    if name not in modules or side not in ("", "input"):
        raise InputError(
            f"{network.name} has no layer {tap!r} to take features from: its layers are "
            f"{', '.join(list(modules)[1:9])}, ..."
        )
    return modules[name], bool(side)


def pooled_bn(network: Network) -> list[str]:
    """Names of a dense network's batch norms that see one value per channel and image, as in DeepLab's image pooling.

    Always empty for a classifier, where this is normal. A copy of the network runs on two blank images.
    """
    found, dense = _single_valued(network)
    return found if dense else []


def single_valued_bn(network: Network) -> list[str]:
    """Names of any network's batch norms that see one value per channel and image. They cannot take a batch of one."""
    return _single_valued(network)[0]


def _single_valued(network: Network) -> tuple[list[str], bool]:
    copied = plain_copy(network)
    without_probes(copied)
    found: list[str] = []

    def look(name: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[2:].numel() == 1:
            found.append(name)

    for name, layer in bn_layers(copied.module).items():
        layer.register_forward_pre_hook(partial(look, name))
    with torch.no_grad():
        outputs = copied(torch.zeros(2, network.channels, *network.image_size))
    return found, outputs.dim() == 4


class Probe(nn.Module):
    """A network whose call returns :class:`Observed` instead of bare logits.

    Args:
        network: the teacher or student.
        taps: dotted names, inside ``network.module``, of the layers whose output is wanted; ``name:input`` for a
            layer's input. The classifier's input is the penultimate features, pooled and flat, of any network.
        bn: whether batch-norm statistics will be asked for.
        average: mean over ranks of a per-rank moment, differentiable; the engine gives it.
        bn_pooled: whether to read also a dense network's batch norms with one value per channel and image
            (:func:`pooled_bn`). A batch gives such a layer no more values than it has images. In a classifier all
            layers are read.

    ``left_out`` names the batch norms that are not read.
    """

    def __init__(
        self,
        network: Network,
        taps: Sequence[str] = (),
        bn: bool = False,
        average: Callable[[Tensor], Tensor] = _no_average,
        bn_pooled: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.taps = tuple(taps)
        self._average = average
        self._stats = False
        self._features: dict[str, Tensor] = {}
        self._moments: list[Moments] = []
        for tap in self.taps:
            layer, entering = _tapped(network, tap)
            if entering:
                layer.register_forward_pre_hook(_Hook(partial(self._keep_input, tap)))
            else:
                layer.register_forward_hook(_Hook(partial(self._keep_output, tap)))
        layers = bn_layers(network.module) if bn else {}
        self.left_out = pooled_bn(network) if bn and not bn_pooled else []
        for name, layer in layers.items():
            if name not in self.left_out:
                layer.register_forward_pre_hook(_Hook(self._read))

    def forward(self, images: Tensor, stats: bool = False) -> Observed:
        """Logits, tapped features and, with ``stats``, batch-norm moments of images (``b c h w``, [0, 1])."""
        self._stats, self._features, self._moments = stats, {}, []
        logits = self.network(images)
        seen = Observed(logits, {name: self._features[name] for name in self.taps}, self._moments)
        self._stats, self._features, self._moments = False, {}, []
        return seen

    def _keep_output(self, name: str, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._features[name] = output

    def _keep_input(self, name: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features[name] = inputs[0]

    def _read(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not self._stats:
            return
        assert isinstance(layer, _BatchNorm)
        x = inputs[0]
        # In bf16 the variance of a channel with a large mean is all rounding error.
        x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        mean, var = moments(x, layer.running_mean)
        global_mean = self._average(mean)
        # Law of total variance: exact for equal shares, and it does not cancel as E[x^2] - E[x]^2 does.
        global_var = self._average(var + (mean - global_mean).square())
        self._moments.append(Moments(global_mean, global_var, layer.running_mean, layer.running_var))  # type: ignore[arg-type]


class Rest(nn.Module):
    """The part of a network after a tap: takes the tap's value, returns logits.

    The whole network runs on black images, and a hook replaces what they give at the tap by the value. So it works for
    any network, whatever its forward pass looks like. It costs a forward pass, so it is for occasional use.

    Args:
        network: in eval mode; it is not changed.
        tap: as in :class:`Probe`: a layer's output, or with ``:input`` its input.

    Raises:
        InputError: there is no such layer, or the value's shape is not that of the tap.
    """

    def __init__(self, network: Network, tap: str) -> None:
        super().__init__()
        self.network = network
        self.tap = tap
        self._value: Tensor | None = None
        self._met = False
        layer, entering = _tapped(network, tap)
        if entering:
            layer.register_forward_pre_hook(_Hook(lambda _layer, inputs: self._put(inputs[0], inputs[1:])))
        else:
            layer.register_forward_hook(_Hook(lambda _layer, _inputs, output: self._put(output)))

    def forward(self, value: Tensor) -> Tensor:
        """Logits (``b k``) for the tap's value (``b ...``)."""
        mean = self.network.mean
        images = mean.new_zeros(len(value), self.network.channels, *self.network.image_size)
        self._value, self._met = value, False
        try:
            logits = self.network(images)
        finally:
            self._value = None
        if not self._met:
            raise InputError(f"{self.network.name} does not run its layer {self.tap!r}: name another layer")
        return logits

    def _put(self, found: Tensor, others: tuple[Any, ...] | None = None) -> Any:
        if self._value is None:
            return None
        if found.shape != self._value.shape:
            raise InputError(
                f"{self.network.name} has {tuple(found.shape[1:])} at {self.tap!r} and {tuple(self._value.shape[1:])} "
                "was given: give a value of the first shape"
            )
        self._met = True
        return self._value if others is None else (self._value, *others)
