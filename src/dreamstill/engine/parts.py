"""Networks as the engine runs them: cast, with batch norm over all ranks, and with their optimisers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from dreamstill.engine.schedules import Schedule
from dreamstill.errors import InputError


class Cast(nn.Module):
    """A network that runs in the engine's precision and returns at least float32."""

    def __init__(self, module: nn.Module, fabric: Fabric) -> None:
        super().__init__()
        self.module = module
        self._autocast = fabric.autocast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network under autocast. Losses outside are then plain float32 and need no guards."""
        with self._autocast():
            out = self.module(*args, **kwargs)
        return tree_map(_at_least_float32, out)


def _at_least_float32(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x


class Owned:
    """A network's optimiser, its schedule and its name in logs and checkpoints."""

    def __init__(self, name: str, module: nn.Module, opt: Optimizer, schedule: Schedule, clip: float | None) -> None:
        self.name, self.module, self.opt, self.schedule, self.clip = name, module, opt, schedule, clip
        self.params: list[nn.Parameter] = [p for group in opt.param_groups for p in group["params"]]
        self.base_lrs = [float(group["lr"]) for group in opt.param_groups]
        self.steps = 0

    def set_lr(self, progress: float, schedule: Schedule | None = None) -> None:
        """Learning rates at ``progress`` (0 to 1) of the phase, by its own schedule if it has one."""
        factor = (schedule or self.schedule)(progress)
        for group, base in zip(self.opt.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor


def with_optimiser(
    name: str, module: nn.Module, make_opt: Callable[..., Optimizer] | None, schedule: Schedule, clip: float | None
) -> Owned:
    """A network with its optimiser, in its fused form where there is one; plain SGD of rate 0 if none is given.

    Raises:
        InputError: a setting is out of the optimiser's range.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    make_opt = make_opt or partial(torch.optim.SGD, lr=0.0)
    try:
        opt = make_opt(params, fused=True)
    except TypeError:  # an optimiser without a fused form
        opt = make_opt(params)
    except ValueError as error:  # which torch names
        raise InputError(f"the optimiser of the {name} does not take its settings: {error}") from error
    return Owned(name, module, opt, schedule, clip)
