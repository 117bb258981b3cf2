"""CGDD as the abstract of its first version has it: the student after the generator, in place of both in turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods import Phase
from dreamstill.methods.cgdd import CGDD


@dataclass
class TwoStageCGDD(CGDD):
    """``mode: two_stage``. Without a student there is no adversarial term; the settings are those of the parent."""

    mode: Literal["alternating", "two_stage"] = "two_stage"

    def phases(self, steps: int) -> list[Phase]:
        """The generator alone for ``stage_one`` of all steps, then the student alone."""
        alone = round(steps * self.stage_one / (1 - self.stage_one))
        phases = Phase("generate", alone, self.stage_one_step), Phase("distil", steps, self.stage_two_step)
        return [phase for phase in phases if phase.iterations]

    def stage_one_step(self, engine: Engine) -> None:
        """One step of the generator."""
        self.generator.train()
        engine.minimise(self.loss_g, self.opt_g, inputs=self.images.draw(engine))

    def stage_two_step(self, engine: Engine) -> None:
        """The student learns from what the trained generator, now frozen, batch norm included, makes."""
        self.generator.eval()
        for batch in self.images.lessons(engine, 1, self.crop, self.flip):
            engine.observe("student", engine.minimise(self.loss_s, *self.learners, inputs=batch))

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Images as stage two shows them, in eval mode."""
        self.generator.eval()
        return super().synthesise(engine, n)

    def check(self, task: str) -> None:
        """Refuse ``reuse`` too: stage two makes every batch anew."""
        if self.reuse:
            raise InputError("reuse needs generator and student in turns: leave it out, or take mode alternating")
        super().check(task)
