"""What people type, as the parser wants it: slips are named, and the usual ways to write a size or number are taken."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from dreamstill.errors import InputError, did_you_mean

# Names that one command has for what another calls otherwise.
_SAME = {"distill": {"checkpoint": "teacher_checkpoint"}, "doctor": {"teacher_checkpoint": "checkpoint"}}


def check_command(command: str, known: Collection[str]) -> None:
    """Make sure that there is such a command.

    Raises:
        InputError: there is not; names the nearest.
    """
    if command not in known and not command.startswith("-"):
        hint = did_you_mean(command, known) or f"there are {', '.join(known)};"
        raise InputError(f"there is no command {command!r}: {hint} dreamstill --help explains them")


def options(command: str, words: Sequence[str], function: Callable[..., Any], first: str | None) -> list[str]:
    """The words after a command, each option under the name of its argument.

    Hyphens in option names; the first argument without its name; ``--method ddad`` as ``--method.name ddad`` so that
    hyper-parameters can follow it (``--method '{name: ddad, ...}'`` has them already); switches without a value, and
    ``--no-X``; values as :func:`_value` takes them.

    Raises:
        InputError: there is no such option; names the nearest.
    """
    parameters = inspect.signature(function).parameters
    kinds = {name: str(parameter.annotation) for name, parameter in parameters.items()}
    words = list(words)
    if first and words and not words[0].startswith("-"):
        if kinds[first].startswith("list["):  # all words before the first option
            n = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
            words = [json.dumps(words[:n]), *words[n:]]
        words = [f"--{first}", *words]
    out: list[str] = []
    for i, word in enumerate(words):
        if not word.startswith("--"):
            out.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = _known(command, name.replace("-", "_"), kinds)
        following = words[i + 1] if i + 1 < len(words) else ""
        if kinds.get(name.removeprefix("no_"), "").startswith("bool") and not equals:
            if name.startswith("no_"):
                name, equals, value = name.removeprefix("no_"), "=", "false"
            elif following.lower() not in ("true", "false", "yes", "no"):
                equals, value = "=", "true"
        elif equals:
            value = _value(value, kinds.get(name, ""))
        elif following and not following.startswith("--"):
            words[i + 1] = _value(following, kinds.get(name, ""))
        if name == "method" and not (value if equals else following).lstrip().startswith("{"):
            name = "method.name"
        out.append("--" + name + equals + value)
    given = {word.partition("=")[0] for word in out}
    if any(o.startswith("--method.") for o in given) and not {"--method", "--method.name", "--config"} & given:
        out.append("--method.name=" + parameters["method"].default)
    return out


def _known(command: str, name: str, kinds: Mapping[str, str]) -> str:
    """The name of the argument that an option stands for."""
    own, dot, inside = name.partition(".")
    own = _SAME.get(command, {}).get(own, own)
    switches = {f"no_{k}" for k, kind in kinds.items() if kind.startswith("bool")}
    if own not in {*kinds, *switches, "config", "help"}:
        hint = did_you_mean(own, [*kinds, "config", "help"]).replace("_", "-").replace("mean ", "mean --")
        hint = hint.replace(" or ", " or --") or "its options are in the help:"
        raise InputError(
            f"{command} has no option --{name.replace('_', '-')}: {hint} dreamstill {command} --help explains"
        )
    return own + dot + inside


def _value(text: str, kind: str) -> str:
    """``32x32`` and ``0.5,0.5,0.5`` for lists, ``1e3`` for whole numbers."""
    if "list[" in kind and (pair := re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)):
        return f"[{pair[1]},{pair[2]}]"
    if "list[" in kind and "," in text and not text.lstrip().startswith("["):
        return f"[{text}]"
    if kind.startswith("int") and re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d+", text):
        number = float(text)
        return str(int(number)) if number.is_integer() and number < 2**53 else text
    return text
