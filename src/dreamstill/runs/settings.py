"""The settings of the commands, with their types and ranges. No torch in here: ``--help`` must answer at once.

Each class has the parameters of the function of :mod:`dreamstill.api` that it is named after, which explains them.
``unsaved`` lists the settings that ``config.yaml`` does not keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, ClassVar, Literal

from dreamstill.errors import InputError, did_you_mean, one_sentence
from dreamstill.ranges import (
    Below1,
    Count,
    Positive,
    Range,
    Share,
    Weight,
    Whole,
    as_words,
    check_ranges,
    check_types,
    types_of,
)

Precision = Literal["auto", "32", "bf16", "64"]
Compile = Literal["auto", "on", "off"]
ClassWeights = Literal["none", "median", "root"]
ExportFormat = Literal["onnx", "onnx-int8", "pt2", "pt2-int8", "openvino"]

FINISHING_SECONDS = 12.0  # samples, export and report, measured on two cores
DEFAULT_STEPS = 5_000  # of a distillation by a named method that is given neither steps nor minutes


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """Of ``dreamstill distill``."""

    command: ClassVar[str] = "distill"
    # Where and how it runs; and trust in a file is not handed on to whoever repeats the run.
    unsaved: ClassVar[tuple[str, ...]] = (
        "minutes", "preset", "out", "resume", "dry_run", "unsafe_load", "quiet", "trust_code", "target_params",
        "target_flops", "target_latency",
    )  # fmt: skip

    teacher: Any = None
    student: Any = None
    teacher_checkpoint: str | None = None
    teacher_args: dict[str, Any] | None = None
    student_checkpoint: str | None = None
    student_args: dict[str, Any] | None = None
    method: str | dict[str, Any] = "auto"
    preset: str | None = None
    num_classes: int | None = None
    image_size: int | list[int] | None = None
    channels: int | None = None
    mean: list[float] | float | None = None
    std: list[float] | float | None = None
    steps: Count | None = None
    minutes: Positive | None = None
    seed: Whole = 0
    precision: Precision = "auto"
    compile: Compile = "auto"
    device: str = "auto"
    threads: Count | None = None
    data: str | None = None
    split: str = "test"
    set_size: int | list[int] | None = None
    data_root: str | None = None
    real: str | None = None
    collected: str | None = None
    transfer: str | None = None
    out: str | None = None
    resume: bool = False
    dry_run: bool = False
    unsafe_load: bool = False
    checkpoint_seconds: Weight = 60.0
    checkpoint_steps: Whole = 0
    evaluations: Whole = 10
    onnx: bool = True
    quiet: bool = False
    checkpoint_key: str | None = None
    checkpoint_prefix: str | None = None
    trust_code: bool = False
    target_params: float | str | None = None
    target_flops: float | str | None = None
    target_latency: float | str | None = None

    def check(self) -> None:
        """Make sure that every setting is of its type and in its range, and that there is one budget, and time for it.

        Raises:
            InputError: one is not, or there are two, or it is spent before the training.
        """
        check_types(self)
        check_seed(self.seed)
        check_ranges(self)
        if self.steps is not None and self.minutes is not None:
            raise InputError("both --steps and --minutes were given: choose one budget")
        if self.minutes is not None and self.minutes * 60 <= FINISHING_SECONDS:
            raise InputError(
                f"--minutes {self.minutes:g} is {self.minutes * 60:.2g} s, and what comes after training takes about "
                f"{FINISHING_SECONDS:g} s: give at least 1, or --steps"
            )


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Of ``dreamstill train``."""

    command: ClassVar[str] = "train"
    unsaved: ClassVar[tuple[str, ...]] = ("out", "resume", "quiet")

    network: Any = None
    data: str | None = None
    split: str = "test"
    data_root: str | None = None
    network_args: dict[str, Any] | None = None
    image_size: int | list[int] | None = None
    set_size: int | list[int] | None = None
    channels: int | None = None
    epochs: Positive = 20.0
    batch_size: Count = 128
    lr: Positive = 0.1
    weight_decay: Weight = 5e-4
    momentum: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.9  # Nesterov's needs some
    warmup: Below1 = 0.05  # a warm-up over the whole run would never reach the rate
    label_smoothing: Share = 0.0
    crop: Whole = 4
    flip: bool | None = None
    scale: Annotated[float, Range(0, 1, open_low=True)] = 1.0
    relight: Share = 0.0
    class_weights: ClassWeights = "none"
    limit: Count | None = None
    seed: Whole = 0
    precision: Precision = "auto"
    compile: Compile = "auto"
    device: str = "auto"
    out: str | None = None
    resume: bool = False
    checkpoint_seconds: Weight = 60.0
    evaluations: Whole = 10
    quiet: bool = False

    def check(self) -> None:
        """Make sure that there are a network and data, and that all settings are in range and agree.

        Raises:
            InputError: one is missing, out of range, or contradicts another.
        """
        if self.network is None:
            raise InputError("no network: name one, as in dreamstill train wrn_16_2, or give package.module:factory")
        if self.data is None:
            raise InputError("train needs --data: digits, a name under --data-root, a parquet file, or class folders")
        check_types(self)
        check_seed(self.seed)
        check_ranges(self)
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels}: it must be 1 or 3")
        if self.set_size is not None and (self.image_size is None or self.scale < 1):
            raise InputError(
                "--set-size needs --image-size, the size of the windows that are cut from its images: give it, and "
                "leave --scale at 1, because it cuts rectangles of its own"
            )


RunSettings = DistillSettings | TrainSettings  # of the commands that make a run folder


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Of ``dreamstill evaluate``."""

    run: str
    data: str | None = None
    data_root: str | None = None
    split: str = "test"
    set_size: int | list[int] | None = None
    teacher: Any = None
    teacher_checkpoint: str | None = None
    limit: int | None = None
    unsafe_load: bool = False
    student: Any = None
    images: str | None = None
    trust_code: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Of ``dreamstill export``."""

    run: str
    format: ExportFormat = "onnx"
    out: str | None = None
    images: Count = 256
    student: Any = None
    unsafe_load: bool = False
    trust_code: bool = False


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """Of ``dreamstill doctor``."""

    teacher: str
    checkpoint: str | None = None
    teacher_args: dict[str, Any] | None = None
    num_classes: int | None = None
    image_size: int | list[int] | None = None
    channels: int | None = None
    mean: list[float] | float | None = None
    std: list[float] | float | None = None
    unsafe_load: bool = False
    json: bool = False
    checkpoint_key: str | None = None
    checkpoint_prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """Of ``dreamstill profile``."""

    recipe: str
    device: str | None = None
    precision: Precision | None = None
    compile: Compile | None = None
    teacher: str | None = None
    num_classes: int | None = None
    image_size: int | list[int] | None = None
    channels: int | None = None
    growth: bool = True
    out: str | None = None
    json: bool = False


def method_spec(method: Any) -> dict[str, Any]:
    """``"ddad"``, ``{"name": "ddad", "alpha": 0.1}`` or a method object, as a dictionary with a name."""
    if isinstance(method, str):
        return {"name": method}
    if isinstance(method, Mapping):
        if not isinstance(method.get("name"), str):
            raise InputError(f"the method {dict(method)} has no name: write method: {{name: ddad, ...}}")
        return dict(method)
    if is_dataclass(method) and not isinstance(method, type):
        cls = type(method)
        builtin = cls.__module__.startswith("dreamstill.")
        name = cls.__module__.rsplit(".", 1)[-1] if builtin else f"{cls.__module__}:{cls.__qualname__}"
        return {"name": name, **{f.name: getattr(method, f.name) for f in fields(method)}}
    raise InputError(f"method is {method!r}: give a name, a dictionary with a name, or a method object")


def build_method(method: Any) -> Any:
    """Build the method object of a spec. Its hyper-parameters get types (``"2e-3"`` is a number); unknown ones fail."""
    from jsonargparse import ArgumentError, ArgumentParser

    from dreamstill.methods import get

    spec = method_spec(method)
    if spec["name"] == "auto":
        raise InputError("auto chooses a method only when a distillation begins: name a method here, for instance fast")
    cls = get(spec.pop("name"))
    spec = as_words(cls, spec)
    cls = cls.variant_of(spec)
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(spec) - set(known))
    if unknown:
        hint = did_you_mean(unknown[0], known) or f"it has {', '.join(known)};"
        raise InputError(
            f"the method {cls.__name__} has no {', '.join(unknown)}: {hint} dreamstill methods NAME explains them"
        )
    parser = ArgumentParser(exit_on_error=False)
    # Not add_class_arguments: it resolves the types of the class and its bases in one module, and accepts anything if
    # a name is missing there.
    for name, hint in types_of(cls).items():
        parser.add_argument(f"--{name}", type=hint)
    try:
        values = parser.parse_object(spec, defaults=False)
    except ArgumentError as error:
        raise InputError(f"the method {cls.__name__}: {one_sentence(str(error), 'method.')}") from error
    built = cls(**values.as_dict())
    check_ranges(built)
    return built


def check_seed(seed: int) -> None:
    """Make sure that a seed is one that random generators take.

    Raises:
        InputError: it is out of range.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}: give a whole number from 0 to 2^63 - 1")
