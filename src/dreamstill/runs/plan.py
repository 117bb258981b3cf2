"""A run with every setting resolved, and the same run at its end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from dreamstill.data.image_set import KNOWN
from dreamstill.engine import Engine, Hardware
from dreamstill.methods import Method
from dreamstill.networks.network import Network
from dreamstill.runs.folder import folder_for
from dreamstill.runs.inputs import Inputs
from dreamstill.runs.loop import Outcome
from dreamstill.runs.settings import Compile, DistillSettings, RunSettings, method_spec

Settings = TypeVar("Settings", bound=RunSettings)


@dataclass(frozen=True)
class Plan:
    """A run with every setting resolved."""

    settings: RunSettings  # as config.yaml keeps them: no ``auto`` and no ``minutes`` left, and absolute paths
    method: Method
    inputs: Inputs
    hardware: Hardware
    steps: int
    out: Path
    began: float  # when the command began
    ends: float | None = None  # when training should end, on the clock of time.monotonic

    @property
    def compare(self) -> bool:
        """Whether there is a teacher to compare with."""
        return isinstance(self.settings, DistillSettings)

    @property
    def file(self) -> str:
        """The name of the delivered network's file."""
        return "student.safetensors" if self.compare else "model.safetensors"

    @property
    def method_spec(self) -> dict[str, Any] | None:
        """The method's name and hyper-parameters; None for supervised training, which is not a method."""
        return method_spec(self.settings.method) if isinstance(self.settings, DistillSettings) else None

    @property
    def outside(self) -> list[str]:
        """Outside information used: in the student's first weights, and by the method, as exactly as it is known."""
        first, inputs = list(self.inputs.student_weights.outside), self.inputs
        if inputs.stored is not None:
            return first + inputs.stored.outside
        return first + (list(self.method.outside_used) if inputs.collected is None else [inputs.collected.outside])


def plan_run(
    settings: RunSettings,
    method: Method,
    inputs: Inputs,
    hardware: Hardware,
    steps: int,
    began: float,
    ends: float | None = None,
    out: Path | None = None,
) -> Plan:
    """Resolve what is left to resolve: the networks' names and facts, the hardware, the paths and the folder.

    ``out``: the folder that was said; if another process has taken that since, it is the next one.
    """
    teacher, student = inputs.given.teacher, inputs.given.student
    resolved: RunSettings
    if isinstance(settings, DistillSettings):
        about, spec = teacher.description(), method_spec(method)
        resolved = replace(
            settings, teacher=teacher.name, student=student.name, num_classes=about["num_classes"],
            image_size=about["image_size"], channels=about["channels"], mean=about["mean"], std=about["std"],
            method=spec, steps=steps,
        )  # fmt: skip
        name = spec["name"]
    else:
        size = list(student.image_size)
        resolved = replace(settings, network=student.name, image_size=size, channels=student.channels)
        name = "train"
    compile: Compile = "on" if hardware.compile else "off"
    resolved = replace(resolved, device=hardware.device, precision=hardware.precision, compile=compile)
    if out is None or (settings.out is None and out.exists()):
        out = folder_for(settings.out, name)
    return Plan(with_absolute_paths(resolved), method, inputs, hardware, steps, out, began, ends)


def with_absolute_paths(settings: Settings) -> Settings:
    """Settings whose paths are valid from any folder. The name of a set stays as it is."""
    named = (None, "digits", *KNOWN)
    found: dict[str, Any] = {}
    for key in ("teacher_checkpoint", "student_checkpoint", "data_root", "transfer", "data", "real", "collected"):
        value = getattr(settings, key, None)
        a_set = key in ("data", "real", "collected")
        if value and not (a_set and (value in named or not Path(value).exists())):
            found[key] = str(Path(value).resolve())
    for key in ("teacher", "student", "network"):  # ./file.py:factory, to be resumed from another folder
        name = getattr(settings, key, None)
        file, colon, factory = name.rpartition(":") if isinstance(name, str) else ("", "", "")
        if colon and file.endswith(".py"):
            found[key] = f"{Path(file).resolve()}:{factory}"
    return replace(settings, **found)


@dataclass(frozen=True)
class Finished:
    """A finished run, whose results are about to be written."""

    plan: Plan
    engine: Engine
    outcome: Outcome
    images: Tensor | None  # images that the student learned from last, as the method gives them (``n c h w``)
    setup: float  # seconds before the first step
    trained: float  # when the last step was done

    @property
    def network(self) -> Network:
        """The delivered network."""
        return self.outcome.ema.network
