"""``dreamstill methods``: list the methods and controls, or show the settings of one."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any

import yaml
from rich.table import Column, Table

from dreamstill import methods
from dreamstill.messages import say, show
from dreamstill.ranges import in_words


@dataclass(frozen=True)
class Setting:
    """A hyper-parameter of a method, in words."""

    name: str
    default: str  # as a recipe would say it
    range: str
    meaning: str  # with where the default comes from


def list_methods(name: str | None, as_json: bool) -> list[dict[str, Any]]:
    """Carry out :func:`dreamstill.api.methods`."""
    known = methods.names()
    names = sorted(known, key=lambda name: (known[name].endswith("controls"), name)) if name is None else [name]
    found = [_row(name, methods.get(name)) for name in names]
    explained = [] if name is None else settings_of(methods.get(name))
    if name is not None:
        found[0]["explained"] = [asdict(setting) for setting in explained]
    if as_json:
        print(json.dumps(found, indent=2))
    elif name is None:
        table = Table("method", "paper", "tasks", "needs of the teacher", "outside information")
        for row in found:
            outside = ", ".join(row["outside"]) or "none"
            table.add_row(row["name"], row["paper"], ", ".join(row["tasks"]), ", ".join(row["needs"]), outside)
        show(table)
    else:
        say(f"{name}: {found[0]['paper']}")
        table = Table(Column("setting", no_wrap=True), "default", "range", "meaning")
        for s in explained:
            table.add_row(s.name, s.default, s.range, s.meaning.replace("``", ""))
        show(table, markup=False)
        say(of_paper(methods.get(name)))
    return found


def of_paper(cls: type[Any]) -> str:
    """What ``--preset paper`` does, in a sentence."""
    if cls.control:
        return "A control has no published settings, and --preset does not go with it."
    if not cls.paper_settings:
        return "--preset paper changes nothing: no default is ours where a published setting is known."
    listed = ", ".join(f"{name} {_as_yaml(value)}" for name, value in cls.paper_settings.items())
    return f"--preset paper sets {listed}."


def _row(name: str, cls: type[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "control" if cls.control else "method",
        "paper": cls.paper,
        "needs": sorted(cls.needs),
        "outside": list(cls.outside),
        "tasks": sorted(cls.tasks),
        "settings": {f.name: _default(f) for f in fields(cls)},
        "paper_settings": dict(cls.paper_settings),
    }


def settings_of(cls: type[Any]) -> list[Setting]:
    """The settings of a method, from its fields: their defaults, their types and the docstrings under them."""
    ranges, meanings = in_words(cls), _docstrings(cls)
    return [Setting(f.name, _as_yaml(_default(f)), ranges[f.name], meanings.get(f.name, "")) for f in fields(cls)]


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _as_yaml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _docstrings(cls: type[Any]) -> dict[str, str]:
    """The string under each field of a class and its bases, as one line; nothing where there is no source to read."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):
            continue
        assert isinstance(node, ast.ClassDef)
        for field, under in zip(node.body, node.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant):
                found[field.target.id] = " ".join(str(under.value.value).split())
    return found
