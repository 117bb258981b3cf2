"""The range of a setting, written once in its type: ``batch_size: Count = 256``. Checks, help and docs read it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from os import PathLike
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dreamstill.errors import InputError

Mark = TypeVar("Mark")


@dataclass(frozen=True)
class Range:
    """The values that a numeric setting may have. An open end does not belong to the range."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)  # infinity and NaN are in no range

    def __str__(self) -> str:
        ends = []
        if self.low > -math.inf:
            ends.append(f"above {self.low:g}" if self.open_low else f"at least {self.low:g}")
        if self.high < math.inf:
            ends.append(f"below {self.high:g}" if self.open_high else f"at most {self.high:g}")
        return " and ".join(ends) or "a number"


@dataclass(frozen=True)
class Small:
    """The value that short trials take instead of the default. It marks settings that make a run large."""

    value: int


@dataclass(frozen=True)
class Batch:
    """Marks the setting that counts the images of a step."""


Count = Annotated[int, Range(low=1)]
Whole = Annotated[int, Range(low=0)]
Weight = Annotated[float, Range(low=0)]
Positive = Annotated[float, Range(low=0, open_low=True)]
Share = Annotated[float, Range(low=0, high=1)]
Below1 = Annotated[float, Range(low=0, high=1, open_high=True)]


def check_ranges(settings: Any) -> None:
    """Make sure that every number in a dataclass of settings is in the range that its type names.

    Raises:
        InputError: a number is out of range or NaN; names the setting, its value and the range.
    """
    hints = types_of(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for allowed in _found(hints[field.name], Range) or [Range()]:
            if value not in allowed:
                raise InputError(f"{field.name} is {value}: it must be {allowed}")


def check_types(settings: Any) -> None:
    """Make sure that every value of a dataclass of settings is of the type that its field names.

    Raises:
        InputError: one is not; names it, its value and what is expected.
    """
    for name, hint in types_of(type(settings)).items():
        value = getattr(settings, name)
        if not _fits(value, hint):
            kind = type(value).__name__
            raise InputError(
                f"{name} is {value!r}, of the type {kind}: expected {_words(hint).removesuffix(' or null')}"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; numpy's numbers are numbers, and a path is a text."""
    if hint is Any or get_origin(hint) is Literal:  # of choices the checks speak that know what is there
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Annotated:
        return _fits(value, get_args(hint)[0])
    if get_origin(hint) is list:
        several = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
        return several and all(_fits(v, get_args(hint)[0]) for v in value)
    kinds: dict[Any, Any] = {int: Integral, float: Real, str: str | PathLike, dict: Mapping}
    kind = kinds.get(get_origin(hint) or hint, hint)
    return isinstance(value, kind) and (hint is bool or not isinstance(value, bool))


def marked(settings: type, kind: type[Mark]) -> dict[str, Mark]:
    """The marks of one kind in a dataclass of settings, by field, in the order of the fields."""
    hints = types_of(settings)
    return {name: found[0] for name, hint in hints.items() if (found := _found(hint, kind))}


SWITCHES = {True: ("on", "yes", "true"), False: ("off", "no", "false")}  # words that YAML reads as true and false


def as_words(settings: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field, with true and false replaced by the word that the field's choices have for them.

    YAML reads ``centre: on`` as true. If a field takes a truth value, or has no such word, the value stays.
    """
    hints = types_of(settings)
    return {name: _word(hints.get(name), value) for name, value in given.items()}


def _word(hint: Any, value: Any) -> Any:
    choices = _choices(hint)
    if not isinstance(value, bool) or bool in choices or any(choice is value for choice in choices):
        return value
    return next((word for word in SWITCHES[value] if word in choices), value)


def _choices(hint: Any) -> list[Any]:
    """The choices and plain types in a type, including those within unions."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [hint, *(choice for part in get_args(hint) for choice in _choices(part))]


def in_words(settings: type) -> dict[str, str]:
    """What each field in a dataclass of settings may be: its range, or its choices."""
    return {name: _words(hint) for name, hint in types_of(settings).items()}


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(part) for part in get_args(hint))
    if found := _found(hint, Range):
        return f"{found[0]}"
    if get_origin(hint) is Annotated:
        return _words(get_args(hint)[0])
    if get_origin(hint) is list:
        return f"list of {_words(get_args(hint)[0])}"
    named = {
        bool: "true, false",
        int: "a whole number",
        float: "a number",
        str: "a name",
        dict: "a mapping",
        type(None): "null",
    }
    return named.get(get_origin(hint) or hint, str(hint))


def types_of(settings: type) -> dict[str, Any]:
    """The types of a dataclass's fields, marks included. Names are resolved in the module that defines each field."""
    # Not get_type_hints of the class: its other annotations may name imports that only a type checker makes.
    names = [f.name for f in fields(settings)]
    found: dict[str, Any] = {}
    for cls in reversed(settings.__mro__):
        own = {k: v for k, v in vars(cls).get("__annotations__", {}).items() if k in names}
        holder = type(cls.__name__, (), {"__annotations__": own})
        found |= get_type_hints(holder, vars(sys.modules[cls.__module__]), include_extras=True)
    return {name: found[name] for name in names}


def _found(hint: Any, kind: type[Mark]) -> list[Mark]:
    """The marks of one kind in a type, including those within unions."""
    own = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, kind)]
    return own + [m for part in get_args(hint) for m in _found(part, kind)]
