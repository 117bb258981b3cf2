"""One table of a suite as Markdown, made from its records, and the page that holds a suite's tables."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dreamstill.commands.bench.suite import Row, Table
from dreamstill.errors import InputError, first_line
from dreamstill.report.numbers import unit
from dreamstill.runs.duration import duration

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """A row with the records of its seeds, at least one."""

    plan: Table
    row: Row
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """What tables call the row."""
        return self.row.label or self.row.name

    @property
    def summaries(self) -> list[Mapping[str, Any]]:
        """The summaries of its runs."""
        return [record["summary"] for record in self.records]

    @property
    def mean(self) -> float:
        """The students' score, over the seeds."""
        return statistics.mean(score(summary["student"]) for summary in self.summaries)

    def spread(self, value: Callable[[Mapping[str, Any]], float]) -> str:
        """Mean and standard deviation over seeds of a share in percent; the value alone of one seed."""
        return _spread([100 * value(summary) for summary in self.summaries])

    @property
    def fidelity(self) -> str:
        """The share of a conditional generator's images that the teacher takes for the class asked for, in percent."""
        return _spread([100 * s["preset"]["share"] for s in self.summaries if "preset" in s])

    @property
    def time(self) -> str:
        """How long a run takes, on average."""
        return duration(statistics.mean(summary["wall_seconds"] for summary in self.summaries))

    @property
    def numbers(self) -> list[str]:
        """In which numbers the runs computed, if not in float32."""
        return sorted({_numbers(summary) for summary in self.summaries} - {"float32"})


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def measured(plan: Table) -> list[Measured]:
    """The rows of a table that have records, in its order."""
    found = []
    for row in plan.rows:
        paths = [plan.record(row, seed) for seed in row.seeds or plan.seeds]
        records = tuple(_record(path) for path in paths if path.exists())
        if records:
            found.append(Measured(plan, row, records))
    return found


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and {"settings", "summary"} <= set(found):
            return found
        why = "it has no settings or no summary"
    except (OSError, ValueError, RecursionError) as error:
        why = first_line(error)
    raise InputError(f"the record {path} cannot be used ({why}): remove it, and the bench makes the run again")


def score(network: Mapping[str, Any], which: str = "") -> float:
    """What a network is judged by: mean IoU where its outputs are maps, else accuracy."""
    return network[f"miou{which}"] if "miou" in network else network[f"accuracy{which}"]


def with_real_data(rows: Sequence[Measured]) -> float | None:
    """The mean score of the students that learnt from the teacher on the real images; None without any."""
    taught = [score(r["summary"]["student"]) for row in rows for r in row.records if on_real_data(r)]
    return statistics.mean(taught) if taught else None


def on_real_data(record: Record) -> bool:
    """Whether a student learnt from the teacher on the real images: not from labels."""
    method = record["settings"]["method"]
    return bool(method["name"] == "real_data" and method.get("loss") != "labels")


def relative(row: Measured, real: float | None) -> list[str]:
    """A row's score in percent of the teacher's and, if there is one, of the student's that had the real data."""
    cells = [row.spread(lambda s: score(s["student"]) / score(s["teacher"]))]
    return cells if real is None else [*cells, row.spread(lambda s: score(s["student"]) / real)]


def metric(rows: Sequence[Measured]) -> str:
    """What the scores of a table are."""
    return "mean IoU" if any("miou" in s["student"] for row in rows for s in row.summaries) else "accuracy"


def anchor(title: str) -> str:
    """The link target that GitHub and the documentation give a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def page(plans: Sequence[Table]) -> str:
    """A suite's page: every table with its notes and the settings of its rows."""
    suite = plans[0]
    title = suite.suite_title
    made = (
        f"`dreamstill bench {suite.path.stem}` makes this page from the records in "
        f"`benchmarks/records/{suite.path.stem}/`, one JSON file a run. [Results](../results.md) explains the columns."
    )
    return "\n".join([f"# {title}", "", made, "", *(table(plan, heading=plan.title != title) for plan in plans)])


def table(plan: Table, heading: bool = True) -> str:
    """The table as Markdown, from the records that are there; of one without any only what it would hold."""
    head = [f"## {plan.title}", ""] * heading + [plan.about.strip(), ""] * bool(plan.about)
    rows = measured(plan)
    there = {row.row.name for row in rows}
    missing = [row.label or row.name for row in plan.rows if row.name not in there]
    left = [f"Not measured yet: {'; '.join(missing)}.", ""] if missing else []
    if not rows:
        return "\n".join([*head, *left, f"`{_command(plan)}`", ""])
    # YAML's folded text has one line end where a paragraph ends, Markdown two.
    note = plan.note.strip().replace("\n", "\n\n")
    lines = [*head, *_scores(rows), "", *_runs(rows), "", *left, *([note, ""] * bool(note)), *_settings(plan, rows), ""]
    return "\n".join([*lines, _networks_and_machines(rows), "", f"`{_command(plan)}`", ""])


def grid(head: Sequence[str], body: Sequence[Sequence[str]], align: bool = True) -> list[str]:
    """A Markdown table; with ``align`` columns of figures stand to the right."""
    figures = [align and all(re.match(r"(\d[^(]*)?$", row[i]) for row in body) for i in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---:" if f else "---" for f in figures], *body)]


def _scores(rows: Sequence[Measured]) -> list[str]:
    """What the students are worth. A published figure has its column where a row has one."""
    real = with_real_data(rows)
    published = any(row.row.published for row in rows)
    head = ["method", f"{metric(rows)}, %", "of the teacher's, %"]
    head += ["of the real-data student's, %"] * (real is not None) + ["agreement, %", "seeds"]
    body = [
        [
            row.name, row.spread(lambda s: score(s["student"])), *relative(row, real),
            row.spread(lambda s: s["agreement"]), str(len(row.records)), *([row.row.published] * published),
        ]
        for row in rows
    ]  # fmt: skip
    return grid(head + ["published"] * published, body)


def _runs(rows: Sequence[Measured]) -> list[str]:
    """What the students cost, and what else is known of their runs."""
    preset = any("preset" in s for row in rows for s in row.summaries)
    head = ["method", "student steps", "time a run", "operations", "parameters", "last step, %", "largest class, %"]
    body = []
    for row in rows:
        first, flops = row.summaries[0], [s.get("total_flops") or 0.0 for s in row.summaries]
        operations = unit(statistics.mean(flops), "FLOP") if all(flops) else ""
        body.append([
            row.name, f"{first['steps']:,}", ", ".join([row.time, *row.numbers]), operations,
            f"{first['student']['params']:,}", row.spread(lambda s: score(s["student"], "_last")),
            row.spread(lambda s: max(s["class_histogram"]) / sum(s["class_histogram"])), *([row.fidelity] * preset),
        ])  # fmt: skip
    return grid(head + ["label fidelity, %"] * preset, body)


def _settings(plan: Table, rows: Sequence[Measured]) -> list[str]:
    """What each row's runs are made with: its recipe, and what the suite changes in it."""
    lines = [f"Every row: {_as_yaml(plan.shared)}.", ""] if plan.shared else []
    for row in rows:
        recipe = f"[{row.row.recipe.removeprefix('recipes/').removesuffix('.yaml')}](../../{row.row.recipe})"
        flat = dict(row.row.settings)
        flat |= flat.pop("method", {})
        lines.append(f"- {row.name}: {recipe}" + (f" with {_as_yaml(flat)}" if flat else ""))
    return lines


def _as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as a recipe has them: ``steps: 3000``, ``flip: true``."""
    values = {name: yaml.safe_dump(value, default_flow_style=True).split("\n")[0] for name, value in settings.items()}
    return ", ".join(f"`{name}: {value}`" for name, value in values.items())


def _networks_and_machines(rows: Sequence[Measured]) -> str:
    """One line of what is the same for all rows; rows of one table may come from several machines."""
    every = [summary for row in rows for summary in row.summaries]
    first, teacher = every[0], every[0]["teacher"]
    machines = dict.fromkeys(_machine(summary) for summary in every)
    students = dict.fromkeys(f"{s['student']['name']}, {s['student']['params']:,} parameters" for s in every)
    return (
        f"Teacher {teacher['name']}, {teacher['params']:,} parameters, {metric(rows)} {score(teacher):.2%}; student "
        f"{' or '.join(students)}. Scored on {first['data']}. Delivered weights: {first['selection']}. "
        f"Machine: {'; '.join(machines)}."
    )


def _machine(summary: Mapping[str, Any]) -> str:
    """What a run was computed on, and in which numbers."""
    machine = summary["machine"]
    cpu = f"{machine['cpu']}, {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    gpu = machine.get("gpu") if summary["device"] == "cuda" else None
    return f"{gpu or cpu}, torch {machine['torch']}, {_numbers(summary)}"


def _numbers(summary: Mapping[str, Any]) -> str:
    return "float32" if summary["precision"] == "32" else summary["precision"]


def _command(plan: Table) -> str:
    chosen = f" --tables '[{plan.key}]'" if plan.key else ""
    return f"dreamstill bench {plan.path.stem}{chosen} --data-root DATA"
