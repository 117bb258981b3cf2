"""The best rows of all suites: the table of the readme, the page of results, and what a method's page shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dreamstill.commands.bench.suite import Table, read_suite
from dreamstill.commands.bench.tables import (
    Measured,
    anchor,
    grid,
    measured,
    metric,
    on_real_data,
    page,
    relative,
    score,
    with_real_data,
)
from dreamstill.files import atomic_write
from dreamstill.methods import get, names

_END = "<!-- /bench -->"


def write_tables(plans: Sequence[Table]) -> str:
    """A suite's page anew, and every other table that its records may have changed; the page's text."""
    text, root = page(plans), plans[0].root
    place = page_of(plans[0])
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(root / place, text)
    for path, filled in pages_with_tables(root).items():
        atomic_write(path, filled)
    return text


def page_of(plan: Table) -> str:
    """Where a suite's page lies under the root."""
    return f"docs/results/{plan.path.stem}.md"


def pages_with_tables(root: Path) -> dict[Path, str]:
    """The pages that have a place for a table, each with what its text should be."""
    places = [root / "README.md", root / "RESULTS.md", *sorted((root / "docs").rglob("*.md"))]
    texts = {path: path.read_text() for path in places if path.exists()}
    suites = every_suite(root)
    makers: dict[str, Callable[[str], list[str]]] = {
        "readme": lambda _: headline(suites),
        "summary": lambda _: summary(suites),
        "method": lambda name: of_method(suites, name),
    }
    pattern = re.compile(rf"<!-- bench:({'|'.join(makers)}) ?(\w*) -->\n.*?{_END}", re.DOTALL)

    def fill(match: re.Match[str]) -> str:
        mark = " ".join(filter(None, match.groups()))
        return f"<!-- bench:{mark} -->\n" + "\n".join(makers[match[1]](match[2])) + f"\n{_END}"

    return {path: pattern.sub(fill, text) for path, text in texts.items() if pattern.search(text)}


def every_suite(root: Path) -> list[list[Measured]]:
    """The measured rows of all tables that compare methods, a list a table; that of the best teacher first."""
    plans = [plan for path in sorted((root / "benchmarks").glob("*.yaml")) for plan in read_suite(path)]
    tables = [rows for plan in plans if plan.show != "page" and (rows := measured(plan))]
    return sorted(tables, key=lambda rows: -score(rows[0].summaries[0]["teacher"]))


def best(rows: Sequence[Measured]) -> Measured | None:
    """The row with the best mean among those with the most seeds. One lucky seed does not stand for a method."""
    return max(rows, key=lambda row: (len(row.records), row.mean), default=None)


def best_of_each(rows: Sequence[Measured]) -> list[Measured]:
    """Every method's best row, the best method first."""
    groups: dict[str, list[Measured]] = {}
    for row in rows:
        if row.row.summary:
            groups.setdefault(row.row.method, []).append(row)
    chosen = [best(group) for group in groups.values()]
    return sorted((row for row in chosen if row is not None), key=lambda row: -row.mean)


def is_control(row: Measured) -> bool:
    """Whether a row is a yardstick and no method."""
    name = row.records[0]["settings"]["method"]["name"]
    return name in names() and bool(get(name).control)


def is_data_free(row: Measured) -> bool:
    """Whether a row's students saw nothing but their teacher."""
    return not row.records[0]["summary"]["outside_information"]


def headline(suites: Sequence[Sequence[Measured]]) -> list[str]:
    """The readme's table: a data set a row, the best data-free student between its two yardsticks."""
    body = []
    for rows in suites:
        plan = rows[0].plan
        if plan.show != "readme":
            continue
        teacher = rows[0].spread(lambda s: score(s["teacher"])).partition(" ")[0]
        free = [row for row in best_of_each(rows) if is_data_free(row)]
        student = best([row for row in free if not is_control(row)])
        taught = best([row for row in rows if all(map(on_real_data, row.records))])
        control = best([row for row in free if is_control(row)])
        measure = "" if metric(rows) == "accuracy" else f", {metric(rows)}"
        named = f"[{plan.title}]({_link(plan)}){measure}; teacher {teacher}"
        body.append([named, _cell(student, True), _cell(taught, False), _cell(control, True)])
    head = ["data set", "best data-free student, %", "distilled with the real data, %", "best control, %"]
    return grid(head, body, align=False)


def _cell(row: Measured | None, named: bool) -> str:
    if row is None:
        return "not measured"
    return row.spread(lambda s: score(s["student"])) + (f" ({row.row.method})" if named else "")


def summary(suites: Sequence[Sequence[Measured]]) -> list[str]:
    """The page of results: a data set and method a row, the best method of a data set first."""
    body = []
    for rows in suites:
        plan, real = rows[0].plan, with_real_data(rows)
        for i, row in enumerate(best_of_each(rows)):
            mark = " (sees real images)" if not is_data_free(row) else " (control)" if is_control(row) else ""
            named = "" if i else f"[{plan.title}]({_link(plan)})"
            cells = [named, row.name + mark, row.spread(lambda s: score(s["student"]))]
            body.append([*cells, relative(row, real)[-1] if real else "", row.time])
    head = ["data set", "method", "accuracy or mean IoU, %", "of the real-data student's, %", "time a run"]
    return grid(head, body)


def of_method(suites: Sequence[Sequence[Measured]], name: str) -> list[str]:
    """A method's page: all of its rows in the tables that compare methods."""
    body: list[list[str]] = []
    for rows in suites:
        own = [row for row in rows if row.records[0]["settings"]["method"]["name"] == name]
        for i, row in enumerate(own):
            link = f"../results/{row.plan.path.stem}.md{_fragment(row.plan)}"
            cells = ["" if i else f"[{row.plan.title}]({link})", row.name, row.spread(lambda s: score(s["student"]))]
            body.append([*cells, relative(row, None)[0], row.time])
    head = ["data set", "row", "accuracy or mean IoU, %", "of the teacher's, %", "time a run"]
    return grid(head, body) if body else [f"{name} has no measured row yet."]


def _link(plan: Table) -> str:
    return page_of(plan) + _fragment(plan)


def _fragment(plan: Table) -> str:
    return "" if plan.title == plan.suite_title else f"#{anchor(plan.title)}"
