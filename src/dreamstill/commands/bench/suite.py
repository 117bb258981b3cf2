"""A suite of benchmarks as its YAML says it: tables, their rows, and the settings and the record of each run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from dreamstill.errors import InputError
from dreamstill.runs.config_file import read_settings
from dreamstill.runs.settings import method_spec

Show = Literal["page", "summary", "readme"]


@dataclass(frozen=True)
class Row:
    """One line of a table: a recipe and what the suite changes in it."""

    name: str  # of its records and on the command line
    recipe: str
    label: str = ""  # what tables call it, METHOD or METHOD, REMARK; the name where it is short
    published: str = ""
    summary: bool = True  # false: only on the suite's page, as a row whose settings the test set chose
    seeds: tuple[int, ...] | None = None  # in place of the table's
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The first part of what tables call it: rows of one method are compared with each other."""
        return (self.label or self.name).partition(",")[0]


@dataclass(frozen=True)
class Table:
    """One table of a suite: rows, seeds and what all rows share."""

    path: Path  # of the suite
    key: str  # within the suite; empty in a suite of one table
    suite_title: str
    title: str
    about: str  # what all rows share, in a line
    note: str
    show: Show  # where its best rows appear besides the suite's page; readme: in the summary too
    seeds: tuple[int, ...]
    shared: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def root(self) -> Path:
        """The folder that recipes and checkpoints are relative to."""
        return self.path.parent.parent

    @property
    def mark(self) -> str:
        """What the readme calls it: ``cpu:fashion``."""
        return f"{self.path.stem}:{self.key}" if self.key else self.path.stem

    def runs(self) -> list[tuple[Row, int]]:
        """All that are to be made, the first seed of every row first."""
        seeds = {row.name: list(row.seeds or self.seeds) for row in self.rows}
        most = max(map(len, seeds.values()), default=0)
        return [(row, seeds[row.name][i]) for i in range(most) for row in self.rows if i < len(seeds[row.name])]

    def settings(self, row: Row) -> dict[str, Any]:
        """What a row's runs are made with: what all share, the recipe, and what the row changes in it.

        Of the method a row gives only what differs, or with a ``name`` all of it.
        """
        recipe = read_settings(self.root / row.recipe, "the recipe", f"row {row.name} of {self.path} names it")
        settings = {**self.shared, **recipe, **row.settings}
        changes = row.settings.get("method")
        if isinstance(changes, Mapping) and "name" not in changes:
            settings["method"] = {**method_spec(recipe.get("method", "ddad")), **changes}
        settings["method"] = method_spec(settings.get("method", "ddad"))
        # The bench decides where a run's files lie and how it is watched.
        return {k: v for k, v in settings.items() if k not in ("data_root", "out", "resume", "quiet")}

    def record(self, row: Row, seed: int) -> Path:
        """Where a run's record lies."""
        stem = "".join(c if c.isalnum() else "-" for c in f"{self.key} {row.name}".lower()).strip("-")
        return self.path.parent / "records" / self.path.stem / f"{stem}-seed{seed}.json"


def read_suite(path: Path) -> tuple[Table, ...]:
    """Read ``benchmarks/NAME.yaml``: one table, or a title and several tables by their keys under ``tables``.

    Raises:
        InputError: not there, or a key is missing or unknown.
    """
    content = read_settings(path, "the suite", "give a file as benchmarks/fashion.yaml")
    several = set(content) <= {"title", "tables"} and "tables" in content
    tables = content["tables"] if several else {"": content}
    if not isinstance(tables, Mapping) or not all(isinstance(content, Mapping) for content in tables.values()):
        raise InputError(f"{path} has the tables {tables}: expected a key for each, with title, seeds and rows in it")
    title = str(content.get("title", path.stem))
    return tuple(_table(path, title, key, content) for key, content in tables.items())


def _table(path: Path, suite_title: str, key: str, content: Mapping[str, Any]) -> Table:
    where = f"{path}, table {key}," if key else str(path)
    unknown = set(content) - {"title", "about", "note", "show", "seeds", "shared", "rows"}
    if unknown or not {"title", "rows", "seeds"} <= set(content):
        raise InputError(
            f"{where} has the keys {', '.join(content)}: expected title, about, note, "
            "show, seeds, shared and rows, or tables with these"
        )
    if not isinstance(content["rows"], list):
        raise InputError(f"{where} has the rows {content['rows']}: expected a list of rows with a name and a recipe")
    rows = tuple(_row(where, row) for row in content["rows"])
    shared = content.get("shared") or {}
    if not isinstance(shared, Mapping):
        raise InputError(f"{where} has shared: {shared}, expected settings by their names")
    show = content.get("show", "page")
    if show not in get_args(Show):
        raise InputError(f"{where} has show: {show}, expected one of {', '.join(get_args(Show))}")
    about, note = content.get("about", ""), content.get("note", "")
    seeds = _seeds(where, content["seeds"])
    return Table(path, key, suite_title, content["title"], about, note, show, seeds, shared, rows)


def _row(where: str, content: Any) -> Row:
    texts = dict.fromkeys(("name", "recipe", "label", "published"), str)
    keys: dict[str, type] = {**texts, "summary": bool, "seeds": list, "settings": dict}
    if not isinstance(content, dict) or set(content) - set(keys) or not {"name", "recipe"} <= set(content):
        raise InputError(f"{where} has the row {content}: expected the keys {', '.join(keys)}, at least the first two")
    for key, kind in keys.items():
        if key in content and not isinstance(content[key], kind):
            words = {str: "a text", bool: "true or false", list: "a list", dict: "settings by their names"}[kind]
            raise InputError(f"{where} has a row with {key}: {content[key]}, expected {words}")
    seeds = _seeds(f"{where}, row {content['name']},", content["seeds"]) if "seeds" in content else None
    return Row(**{**content, "seeds": seeds})


def _seeds(where: str, seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(f"{where} has the seeds {seeds}: expected a list of whole numbers, as [0, 1, 2]")
    return tuple(seeds)
