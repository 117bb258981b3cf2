"""What an engine holds, as a checkpoint keeps it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from dreamstill.data.bank import ImageBank
from dreamstill.engine.draws import Draws
from dreamstill.engine.parts import Owned


class Holder(Protocol):
    """An engine, as far as its state goes."""

    modules: dict[str, nn.Module]
    owned: dict[str, Owned]
    buffers: dict[str, Tensor]
    banks: dict[str, ImageBank]
    draws: Draws


def state_of(engine: Holder) -> dict[str, Any]:
    """All that the next step depends on, but for the banks' images, which checkpoints keep."""
    return {
        "modules": {k: m.state_dict() for k, m in engine.modules.items()},
        "optimisers": {k: o.opt.state_dict() for k, o in engine.owned.items()},
        "optimiser_steps": {k: o.steps for k, o in engine.owned.items()},
        "buffers": dict(engine.buffers),
        "banks": {k: {"added": b.added, "clipped": b.clipped} for k, b in engine.banks.items()},
        "drawn": engine.draws.drawn,
    }


def take_up(engine: Holder, state: dict[str, Any]) -> None:
    """Put back what :func:`state_of` returned, into an engine whose method was set up in the same way."""
    for name, module in engine.modules.items():
        module.load_state_dict(state["modules"][name])
    for name, item in engine.owned.items():
        item.opt.load_state_dict(state["optimisers"][name])
        item.steps = state["optimiser_steps"][name]
    for name, value in engine.buffers.items():
        value.copy_(state["buffers"][name])
    for name, bank in engine.banks.items():
        bank.added = state["banks"][name]["added"]
        bank.clipped.copy_(state["banks"][name]["clipped"])
    engine.draws.drawn = state["drawn"]
