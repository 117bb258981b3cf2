"""A run taken up again where it ended: its networks, its method and all that this has learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamstill.data.storage import nearest
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods import Method
from dreamstill.networks import builtin, state_dicts
from dreamstill.networks.load import WHOLE
from dreamstill.networks.reused_classifier import NAME, base_of
from dreamstill.networks.trust import refuse_own_code
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.config_file import read_run
from dreamstill.runs.inputs import gather_images, resolve_student, resolve_teacher
from dreamstill.runs.manifest import read_manifest
from dreamstill.runs.settings import DistillSettings, build_method, method_spec


def restored(
    folder: Path, seed: int, unsafe_load: bool, trust_code: bool = False, networks: dict[str, Any] | None = None
) -> tuple[Engine, Method, DistillSettings, str]:
    """The run's engine and method, as its last checkpoint left them, its settings, and its teacher's fingerprint.

    Args:
        folder: of the run.
        seed: of what is drawn from now on.
        unsafe_load: load pickles too.
        trust_code: import the code that the run names.
        networks: its teacher or student, where they were given in Python.

    Raises:
        InputError: it is no distillation, has no checkpoint, or one of its networks cannot be built again.
    """
    settings = _settings_of(folder, unsafe_load, trust_code, networks or {})
    method, teacher = build_method(settings.method), resolve_teacher(settings)
    fingerprint = state_dicts.fingerprint(teacher.module)  # before the engine gives it another precision
    given, _, _ = gather_images(settings, method, teacher, resolve_student(settings, teacher))
    engine = Engine(
        given,
        device=settings.device,
        precision=settings.precision,  # type: ignore[arg-type]  # resolved: not auto
        seed=seed,
        steps=settings.steps,  # type: ignore[arg-type]  # likewise
        scratch=nearest(folder),
    )
    method.setup(engine)
    state = Checkpoints(folder / "checkpoint").load(engine.banks)
    if state is None:
        raise InputError(f"{folder} has no checkpoint: the run must have got as far as its first one")
    engine.load(state["engine"])
    engine.begin(state["progress"]["iteration"], 1.0)
    return engine, method, settings, fingerprint


def _settings_of(folder: Path, unsafe_load: bool, trust_code: bool, given: dict[str, Any]) -> DistillSettings:
    """The run's own, after making sure that both networks can be built again and that no code is called unasked."""
    config = folder / "config.yaml"
    if not config.exists():
        raise InputError(f"{folder} holds no run: give the folder of a run that dreamstill distill wrote")
    saved = read_run(config)
    if not isinstance(saved, DistillSettings):
        raise InputError(
            f"{folder} holds a network that dreamstill train wrote, which makes no images: give the folder of a run "
            "that dreamstill distill wrote"
        )
    for role in {"teacher", "student"} - set(given):
        _check_can_be_built(getattr(saved, role), role, folder)
    built = read_manifest(folder).get("student")  # runs of earlier versions do not have it
    args = saved.student_args if built is None else built["kwargs"]
    if not (unsafe_load or trust_code):
        pairs = {"teacher": (saved.teacher, saved.teacher_args), "student": (saved.student, args)}
        named = [pair for role, pair in pairs.items() if role not in given]
        spec = method_spec(saved.method)
        named += [base_of({"name": n, "kwargs": k or {}}) for n, k in named] + [(spec.pop("name"), spec)]
        for name, kwargs in named:
            refuse_own_code(name, config, kwargs)
    # The student's trained weights are in the checkpoint.
    return replace(
        saved, student_args=args, student_checkpoint=None, unsafe_load=unsafe_load, trust_code=trust_code, **given
    )


def _check_can_be_built(name: str, role: str, folder: Path) -> None:
    if ":" in name or name in (NAME, *WHOLE):  # the last lie whole in their files
        return
    try:
        builtin.find(name)
    except InputError as error:
        raise InputError(
            f"the {role} of the run in {folder} is a {name} that was given in Python, and nothing says how to build it "
            f"again: give it as --{role} package.module:factory, or in Python {role}=YourNetwork()"
        ) from error
