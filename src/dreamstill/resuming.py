"""Going on with a stopped run: its own settings, and a refusal of everything that is not as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from dreamstill import weights
from dreamstill.config import build_method, method_spec, read_config
from dreamstill.decoding import sides
from dreamstill.errors import InputError
from dreamstill.models.shared import base_of
from dreamstill.state import read_manifest

if TYPE_CHECKING:
    from dreamstill.running import Plan

# These say how a run is watched or where it goes, not what it computes: they may differ when it is resumed.
FREE = {"out", "resume", "quiet", "dry_run", "unsafe_load", "checkpoint_seconds", "checkpoint_steps"}


def resumed(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the run in ``out``, after making sure that nothing else was asked for now.

    What a function is called with does not tell a default from the same value given on purpose, so only other values
    are compared here; the command line, which can tell, calls :func:`refuse_others` with all that was typed.

    Raises:
        InputError: no run there, it is finished, an argument contradicts it, or it names code to import.
    """
    defaults = {k: p.default for k, p in inspect.signature(function).parameters.items()}
    refuse_others(function, {k: v for k, v in settings.items() if k == "out" or v != defaults[k]})
    out = Path(settings["out"])
    saved = read_config(out / "config.yaml")
    _refuse_own_code(saved, settings, out / "config.yaml")
    watched = ("checkpoint_seconds", "checkpoint_steps")
    # A run's folder says what it computes. Where it goes, and whether it is trusted, is for the caller to say.
    saved = {k: v for k, v in saved.items() if k in watched or k not in FREE}
    free = {k: settings[k] for k in watched if k in settings}
    given = {k: v for k, v in settings.items() if isinstance(v, nn.Module)}
    return {**settings, **saved, **{k: v for k, v in free.items() if v != defaults[k]}, **given}


def refuse_others(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Make sure that there is a run to go on with and that it has every setting that is given.

    Args:
        function: of :mod:`dreamstill.api`, for its defaults: an earlier version's run may lack a setting.
        given: ``out``, and what else the user gave now.

    Raises:
        InputError: no run there, it is finished, or a setting contradicts it.
    """
    if given.get("out") is None:
        raise InputError("--resume needs --out: the folder of the run to go on with")
    out = Path(given["out"])
    if (out / "report.html").exists():
        raise InputError(
            f"the run in {out} is finished: start a new one from its student with --student-checkpoint {out}"
        )
    if not (out / "config.yaml").exists():
        raise InputError(f"{out} holds no run to resume: leave out --resume, or name the folder with --out")
    saved = read_config(out / "config.yaml")
    if given.get("minutes") is not None:
        raise InputError(
            f"--minutes {given['minutes']:g} was given and the run in {out} goes on to the {saved.get('steps')} steps "
            "that were fixed when it began: leave out --minutes"
        )
    if found := differing(function, given, saved):
        now = ", ".join(f"{key} is {value} now and the run in {out} has {was}" for key, value, was in found)
        raise InputError(f"{now}: leave {', '.join(d[0] for d in found)} out to go on, or choose another --out")


def differing(
    function: Callable[..., Any], given: Mapping[str, Any], saved: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Setting, its value now, and the run's, for all that are given and that a run saved otherwise."""
    defaults = {k: p.default for k, p in inspect.signature(function).parameters.items()}
    found: list[tuple[str, Any, Any]] = []
    for key, value in given.items():
        # None and "auto" leave it to the run; a network given in Python is compared by its tensors.
        if key not in FREE and value is not None and not isinstance(value, nn.Module):
            value = _typed(value) if key == "method" else value
            found += _differing(key, value, saved.get(key, defaults.get(key)))
    return found


def _typed(method: Any) -> dict[str, Any]:
    """What was given of a method, in the types that a run saves: "2e-3" as a number."""
    spec = method_spec(method)
    built = method_spec(build_method(spec))
    return {k: v if k == "name" else built[k] for k, v in spec.items()}


def _differing(key: str, now: Any, saved: Any) -> Iterator[tuple[str, Any, Any]]:
    """Setting, its value now, and the run's, for all that differ."""
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
        return len(now) == len(saved) and all(isclose(a, b, rel_tol=1e-6) for a, b in zip(now, saved, strict=True))
    if isinstance(now, str) and isinstance(saved, str) and now != "auto":
        return now == saved or Path(now).resolve() == Path(saved)
    return now in ("auto", saved) or (isinstance(now, list | tuple) and list(now) == saved)


def _refuse_own_code(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """The run's file must not choose which code is called, unless the same is named on this call."""
    if now.get("unsafe_load"):
        return
    for role in ("teacher", "student", "network"):
        if isinstance(now.get(role), nn.Module):
            continue
        if now.get(role) != saved.get(role):
            weights.refuse_own_code(saved.get(role), path)
        if now.get(f"{role}_args") != (args := saved.get(f"{role}_args")):
            weights.refuse_own_code(base_of({"name": saved.get(role), "kwargs": args or {}}), path)
    name = method_spec(saved["method"])["name"] if "method" in saved else None
    if name is not None and name != method_spec(now["method"])["name"]:
        weights.refuse_own_code(name, path)


def same_inputs(plan: Plan) -> None:
    """Make sure that the teacher, and the images that a run was given, are those it began with.

    Raises:
        InputError: one is not.
    """
    manifest = read_manifest(plan.out)
    if plan.collected is not None and manifest.get("collected_sha256") != plan.collected.sha256:
        raise InputError(
            f"the collected images in {plan.collected.source} are not those that the run in {plan.out} began with: put "
            "the same ones there, or start a new run in another --out"
        )
    if plan.stored is not None and manifest.get("transfer_sha256") != plan.stored.sha256:
        raise InputError(
            f"the transfer set is not the one that the run in {plan.out} began with: give the same file, or start a "
            "new run in another --out"
        )
    # Runs of earlier versions did not record it.
    if "real_sha256" in manifest and manifest["real_sha256"] != plan.real_sha256:
        source = plan.config["data"] if plan.command == "train" else plan.config["real"]
        raise InputError(
            f"the training images or labels in {source} are not those that the run in {plan.out} began with: put the "
            "same ones there, or start a new run in another --out"
        )
    first = plan.student_file.get("sha256")
    if "student_sha256" in manifest and manifest["student_sha256"] != first:  # earlier versions did not record it
        raise InputError(
            f"the student's first weights are not those that the run in {plan.out} began with (SHA-256 {first}, was "
            f"{manifest['student_sha256']}): give the same file, or start a new run in another --out"
        )
    recorded, now = manifest.get("teacher_sha256"), plan.teacher_file.get("sha256")
    if recorded != now:
        raise InputError(
            f"the teacher is not the one that the run in {plan.out} began with (SHA-256 {now}, was {recorded}): give "
            "the same file, or start a new run in another --out"
        )
