"""Soft targets as a third party's port has them (github ljrprocc/DFKD), each deviation by its setting."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from dreamstill.engine import Engine
from dreamstill.methods.parts.soft_targets import classifier, linear
from dreamstill.methods.parts.target_distributions import Normal, Targets, Units, normal_targets
from dreamstill.methods.soft_target import SoftTarget


@dataclass
class PortedSoftTarget(SoftTarget):
    """``correlate: inputs``, ``exchanged``, ``redraw_targets``: one of them or more. The settings are the parent's."""

    def setup(self, engine: Engine) -> None:
        """As the parent's; ``exchanged``: ``KL(p(T(x)) || y)``."""
        super().setup(engine)
        self.divergence = partial(self.divergence, exchanged=self.exchanged)

    def model(self, engine: Engine, how: Normal) -> Targets:
        """``correlate: inputs``: what enters a linear layer, without a name the classifier, is drawn."""
        network = engine.given.teacher
        if self.correlate == "units" or self.space != "layer":
            return super().model(engine, how)
        name = self.layer or classifier(network)
        weight = linear(network, name).weight.T  # the other axis: of the classifier its rank is K
        return normal_targets(Units(weight, engine.rest(network, f"{name}:input")), how)

    def synthesis_step(self, engine: Engine) -> None:
        """``redraw_targets``: new ones in every iteration, so that an image can only learn their mean."""
        before, at = divmod(engine.iteration, self.iterations)
        if self.redraw_targets and at > 0:
            first = before * self.synthesis_batch
            self.wanted.copy_(self.targets.draw(engine, self.synthesis_batch, first))
        super().synthesis_step(engine)
