"""CPSC-DFKD with what we take for errors of its released code (github RoryShao/CPSC-DFKD, commit 1c6ade1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from dreamstill.engine import Engine
from dreamstill.losses.distillation import floored_cross_entropy
from dreamstill.methods.cpsc import CPSC


@dataclass
class ReleasedCPSC(CPSC):
    """``variant: released``. docs/methods/cpsc.md lists the defects; the settings are those of the parent."""

    variant: Literal["repaired", "released"] = "released"

    def setup(self, engine: Engine) -> None:
        """As the parent's, but for four things."""
        super().setup(engine)
        self.opt_g.opt.register_step_post_hook(forget)  # the generator's Adam is made anew in each step
        self.contrast.opt = None  # the projection is in the student's optimiser, where no loss reaches it
        self.contrast.scaled = nn.Identity()  # its output has any length
        self.l_2 = partial(self.l_2, guard=0.0)  # with log_mse a perfect student has a loss of minus infinity

    def cross_entropy(self, logits: Tensor, y: Tensor, floor: float = 0.0) -> Tensor:
        """Of probabilities, as if they were logits: of the softmax of a softmax."""
        return floored_cross_entropy(logits.softmax(1), y, floor)


def forget(opt: Optimizer, *_: Any) -> None:
    """After a step: an Adam without moments moves each weight by ``lr g / (|g| + eps)``, that is by the sign."""
    opt.state.clear()
