"""Resume a stopped run: take its own settings, and refuse everything that differs from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, replace
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from dreamstill.engine import launch
from dreamstill.errors import InputError
from dreamstill.networks.network import sides
from dreamstill.networks.reused_classifier import base_of
from dreamstill.networks.trust import refuse_own_code
from dreamstill.runs.config_file import WATCHING, read_run, settings_sum
from dreamstill.runs.manifest import read_manifest
from dreamstill.runs.settings import DistillSettings, RunSettings, TrainSettings, build_method, method_spec

if TYPE_CHECKING:
    from dreamstill.runs.plan import Plan

# These say how a run is watched or where it goes, not what it computes: they may differ when it is resumed.
FREE = {"out", "resume", "quiet", "dry_run", "unsafe_load", "trust_code"} | WATCHING

Settings = TypeVar("Settings", bound=RunSettings)


def started_again(settings: RunSettings) -> bool:
    """Whether this is the command of a run that goes on by itself: of ``torchrun --max-restarts``, in the middle.

    All processes find the same: the first one writes ``config.yaml`` only when all of them have come this far.
    """
    out = Path(settings.out or "")
    begun = (out / "config.yaml").exists() and not (out / "report.html").exists()
    return settings.out is not None and launch.may_be_restarted() and begun


def resumed(settings: Settings) -> Settings:
    """The settings of the run in ``out``, after making sure that the user asks for nothing else now.

    A function cannot tell a default from the same value given on purpose, so only other values are compared here. The
    command line can tell, and calls :func:`refuse_others` with all that was typed.

    Raises:
        InputError: there is no run, it is finished, an argument contradicts it, or it names code to import.
    """
    said = [f.name for f in fields(settings) if getattr(settings, f.name) != f.default]
    if not settings.resume and isinstance(settings, DistillSettings):
        settings = replace(settings, minutes=None)  # they were turned into steps when the run began
    refuse_others(settings, said)
    config = Path(settings.out or "") / "config.yaml"
    saved = _saved(settings, config)
    _refuse_own_code(saved, settings, config)
    given = [f.name for f in fields(settings) if isinstance(getattr(settings, f.name), nn.Module)]
    now = {*(set(settings.unsaved) - {"resume", "minutes"}), *(WATCHING & set(said)), *given}
    return replace(saved, resume=True, **{name: getattr(settings, name) for name in now})


def _saved(settings: Settings, path: Path) -> Settings:
    saved = read_run(path)
    if not isinstance(saved, type(settings)):
        raise InputError(
            f"{path} belongs to a run of dreamstill {saved.command}: resume it with dreamstill {saved.command} --resume"
        )
    return saved


def refuse_others(settings: RunSettings, said: Collection[str]) -> None:
    """Make sure that there is a run to resume, and that it has every setting that is given.

    Args:
        settings: with ``out``, and what else the user gave now.
        said: names of the settings that the user gave.

    Raises:
        InputError: there is no run, it is finished, or a setting contradicts it.
    """
    if settings.out is None:
        raise InputError("--resume needs --out: the folder of the run to go on with")
    out = Path(settings.out)
    if (out / "report.html").exists():
        raise InputError(
            f"the run in {out} is finished: start a new run from its student with --student-checkpoint {out}"
        )
    if not (out / "config.yaml").exists():
        raise InputError(f"{out} holds no run to resume: leave out --resume, or name the folder with --out")
    saved = _saved(settings, out / "config.yaml")
    if isinstance(saved, DistillSettings) and (minutes := getattr(settings, "minutes", None)) is not None:
        raise InputError(
            f"--minutes {minutes:g} was given, but the run in {out} goes on to the {saved.steps} steps that were fixed "
            "when it began: leave out --minutes"
        )
    if found := differing(settings, said, saved):
        now = ", ".join(f"{key} is {value} now and the run in {out} has {was}" for key, value, was in found)
        raise InputError(f"{now}: leave out {', '.join(d[0] for d in found)} to go on, or choose another --out")


def differing(settings: RunSettings, said: Collection[str], saved: RunSettings) -> list[tuple[str, Any, Any]]:
    """Setting, value now and value in the run, for all given settings that the run saved with another value."""
    found: list[tuple[str, Any, Any]] = []
    for name in said:
        value = getattr(settings, name)
        # None and "auto" leave the choice to the run. A network given in Python is compared by its tensors.
        if name in FREE or value is None or isinstance(value, nn.Module):
            continue
        if isinstance(saved, DistillSettings) and name == "method":
            found += _differing(name, _typed(value), method_spec(saved.method))
        else:
            found += _differing(name, value, getattr(saved, name))
    return found


def _typed(method: Any) -> dict[str, Any]:
    """The given settings of a method, in the types that a run saves: "2e-3" becomes a number."""
    spec = method_spec(method)
    built = method_spec(build_method(spec))
    return {k: v if k == "name" else built[k] for k, v in spec.items()}


def _differing(key: str, now: Any, saved: Any) -> Iterator[tuple[str, Any, Any]]:
    """Setting, value now and value in the run, for all that differ."""
    if key == "method" and now["name"] != saved.get("name"):
        yield "method.name", now["name"], saved.get("name")  # the rest is another method's
    elif isinstance(now, Mapping) and isinstance(saved, Mapping):
        for k, v in now.items():
            yield from _differing(f"{key}.{k}", v, saved.get(k))
    elif not _matches(key, now, saved):
        yield key, now, saved


def _matches(key: str, now: Any, saved: Any) -> bool:
    if key in ("image_size", "set_size") and saved is not None:
        return sides(key, now) == sides(key, saved)
    if key in ("mean", "std") and saved is not None:  # written down as float32 has them
        now = [now] * len(saved) if isinstance(now, int | float) else now
        return len(now) == len(saved) and all(isclose(a, b, rel_tol=1e-6) for a, b in zip(now, saved, strict=True))
    if isinstance(now, str) and isinstance(saved, str) and now != "auto":
        return now == saved or Path(now).resolve() == Path(saved)
    return now in ("auto", saved) or (isinstance(now, list | tuple) and list(now) == saved)


def _refuse_own_code(saved: RunSettings, now: RunSettings, path: Path) -> None:
    """Refuse a run's file that chooses which code is called, unless this call names the same code."""
    if isinstance(saved, TrainSettings) or isinstance(now, TrainSettings):
        _refuse_own_network("network", saved, now, path)
        return
    if now.unsafe_load or now.trust_code:
        return
    for role in ("teacher", "student"):
        _refuse_own_network(role, saved, now, path)
    spec = method_spec(saved.method)
    name = spec.pop("name")
    if name != method_spec(now.method)["name"]:
        refuse_own_code(name, path, spec)


def _refuse_own_network(role: str, saved: RunSettings, now: RunSettings, path: Path) -> None:
    name, args = getattr(saved, role), getattr(saved, f"{role}_args")
    if isinstance(getattr(now, role), nn.Module):
        return
    if getattr(now, role) != name:
        refuse_own_code(name, path, args)
    if getattr(now, f"{role}_args") != args:
        base, base_args = base_of({"name": name, "kwargs": args or {}})
        refuse_own_code(base, path, base_args)


def same_inputs(plan: Plan) -> None:
    """Make sure that a run has the same settings, teacher and images as when it began.

    Raises:
        InputError: one of them differs.
    """
    manifest = read_manifest(plan.out)
    config = plan.out / "config.yaml"
    # Runs of earlier versions did not record it.
    if "settings_sha256" in manifest and manifest["settings_sha256"] != settings_sum(read_run(config)):
        raise InputError(
            f"the settings in {config} are not those that the run began with: put the file back from a copy, or start "
            "a new run in another --out"
        )
    inputs = plan.inputs
    if inputs.collected is not None and manifest.get("collected_sha256") != inputs.collected.sha256:
        raise InputError(
            f"the collected images in {inputs.collected.source} are not those that the run in {plan.out} began with: "
            "put the same ones there, or start a new run in another --out"
        )
    if inputs.stored is not None and manifest.get("transfer_sha256") != inputs.stored.sha256:
        raise InputError(
            f"the transfer set is not the one that the run in {plan.out} began with: give the same file, or start a "
            "new run in another --out"
        )
    # Runs of earlier versions did not record it.
    if "real_sha256" in manifest and manifest["real_sha256"] != inputs.real_sha256:
        source = plan.settings.real if isinstance(plan.settings, DistillSettings) else plan.settings.data
        raise InputError(
            f"the training images or labels in {source} are not those that the run in {plan.out} began with: put the "
            "same ones there, or start a new run in another --out"
        )
    first = inputs.student_weights.sha256
    if "student_sha256" in manifest and manifest["student_sha256"] != first:  # earlier versions did not record it
        raise InputError(
            f"the student's first weights are not those that the run in {plan.out} began with (SHA-256 {first}, was "
            f"{manifest['student_sha256']}): give the same file, or start a new run in another --out"
        )
    recorded, now = manifest.get("teacher_sha256"), inputs.teacher_weights.sha256
    if recorded != now:
        raise InputError(
            f"the teacher is not the one that the run in {plan.out} began with (SHA-256 {now}, was {recorded}): give "
            "the same file, or start a new run in another --out"
        )
