"""Settings of a run: typed, saved resolved, and strict. No torch in here: ``--help`` must answer at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from dreamstill.errors import InputError
from dreamstill.files import atomic_write
from dreamstill.ranges import check_ranges

SCHEMA = 1
DEFAULT_STEPS = 5_000  # of a distillation that is given neither steps nor minutes


def write_config(path: Path, command: str, settings: Mapping[str, Any]) -> None:
    """Write the resolved settings of a command as YAML that ``dreamstill COMMAND --config`` takes again."""
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, default_flow_style=False)
    atomic_write(path, f"# dreamstill {command}, configuration schema {SCHEMA}\n{text}")


def read_config(path: Path) -> dict[str, Any]:
    """Read what :func:`write_config` wrote."""
    return read_settings(path, "the settings", "they are needed to go on with the run")


def read_settings(path: Path, what: str, hint: str) -> dict[str, Any]:
    """A mapping out of a YAML file.

    Args:
        path: of the file.
        what: it is called in errors, as "the recipe".
        hint: what to do about a file that is none, as the end of a sentence.

    Raises:
        InputError: it cannot be read, is no YAML, or holds no settings.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read ({error.strerror}): {hint}") from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise InputError(f"{what} {path} cannot be read, it is not a text: {hint}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", error)
        raise InputError(f"{what} {path} cannot be read, it is no YAML{where} ({said}): {hint}") from error
    if not isinstance(content, dict):
        kind = "is empty" if content is None else f"holds a {type(content).__name__} and no settings by their names"
        raise InputError(f"{what} {path} {kind}: {hint}")
    return content


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
    """The method object for a spec; its hyper-parameters are typed (``"2e-3"`` is a number) and unknown ones errors."""
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    from dreamstill import methods

    spec = method_spec(method)
    cls = methods.get(spec.pop("name")).variant_of(spec)
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(spec) - set(known))
    if unknown:
        raise InputError(f"the method {cls.__name__} has no {', '.join(unknown)}: it has {', '.join(known)}")
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, as_group=False)
    try:
        values = parser.parse_object(spec)
    except ArgumentError as error:
        raise InputError(f"the method {cls.__name__}: {one_sentence(str(error), 'method.')}") from error
    built = cls(**values.as_dict())
    check_ranges(built)
    return built


def check_run(settings: Mapping[str, Any]) -> None:
    """Make sure that what all runs are told, whatever they compute, is in range.

    Raises:
        InputError: the seed, or how a run is watched, is not.
    """
    check_seed(settings["seed"])
    for name in ("checkpoint_seconds", "checkpoint_steps", "evaluations"):
        value = settings.get(name, 0)
        if not value >= 0:  # not a number is refused too
            raise InputError(f"{name} is {value}: it must not be negative")


def check_seed(seed: int) -> None:
    """Make sure that a seed is one that random generators take.

    Raises:
        InputError: it is not.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}: give a whole number from 0 to 2^63 - 1")


def one_sentence(message: str, prefix: str = "") -> str:
    """A parser's error, several lines with types and traces, as one sentence that names option, type and value.

    Args:
        message: the parser's.
        prefix: of the option on the command line, as ``method.``.
    """
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    key = re.search(r'Parser key "([^"]+)"', message)
    kinds = [_kind(e) for e in re.findall(r"Expected (?:an? )?(<class '\w+'>|typing\.Literal\[.*?\])", message)]
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    if key and (wanted := list(dict.fromkeys(kind for kind in kinds if kind))):
        got = f", got {given[1]!r}" if given else ""
        return f"--{prefix}{key[1]} expects {' or '.join(wanted)}{got}"
    if key and len(lines) > 1:
        return f"--{prefix}{key[1]}: {' '.join(lines[1:])}"
    return " ".join(lines)


def _kind(text: str) -> str:
    """A type in words; nothing for None, which is what is there when nothing is given."""
    if text.startswith("typing.Literal"):
        choices = [str(c) for c in ast.literal_eval(text.removeprefix("typing.Literal"))]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": ""}
    names |= {"list": "a list, as [0.5,0.5,0.5]", "dict": "a mapping, as {width: 0.5}", "str": "a text"}
    return names.get(text.split("'")[1], text)
