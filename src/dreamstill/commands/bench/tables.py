"""The tables of benchmarks as Markdown, made from their records: a suite's page, the readme's, and RESULTS.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamstill.commands.bench.suite import Row, Table, read_suite
from dreamstill.files import atomic_write
from dreamstill.report.numbers import unit


def write_tables(plans: Sequence[Table]) -> str:
    """A suite's tables into its page, the readme and RESULTS.md; the page's text."""
    text = "\n".join(table(plan) for plan in plans)
    atomic_write(plans[0].path.with_suffix(".md"), text)
    for plan in plans:
        _into_readme(plan)
    _into_results(plans[0].root)
    return text


def _into_readme(plan: Table) -> None:
    """Put the table where the readme has a place for it, so that no figure there is typed by hand."""
    readme = plan.root / "README.md"
    begin, end = f"<!-- bench:{plan.mark} -->", "<!-- /bench -->"
    content = readme.read_text() if readme.exists() else ""
    if begin in content:
        before, _, rest = content.partition(begin)
        _, _, after = rest.partition(end)
        atomic_write(readme, f"{before}{begin}\n{table(plan, plan.short or plan.note)}{end}{after}")


def _into_results(root: Path) -> None:
    """All suites' tables on one page, those by which settings were chosen last."""
    suites = sorted((root / "benchmarks").glob("*.yaml"), key=lambda path: (path.stem.endswith("-trials"), path.stem))
    plans = [plan for path in suites if path.with_suffix(".md").exists() for plan in read_suite(path)]
    head = (
        "# Results\n\nMade by `dreamstill bench SUITE` from the records in `benchmarks/records/`, one JSON a run. "
        "Accuracies are\nmeans and standard deviations over seeds, of the weights that a fixed rule delivers.\n\n"
    )
    contents = "\n".join(
        f"- [{plan.title}](#{_anchor(plan)}){'' if _measured(plan) else ' (not measured)'}" for plan in plans
    )
    sections = [f'<a id="{_anchor(plan)}"></a>\n\n' + table(plan).replace("### ", "## ", 1) for plan in plans]
    atomic_write(root / "RESULTS.md", head + contents + "\n\n" + "\n".join(sections))


def _measured(plan: Table) -> bool:
    return any(plan.record(row, seed).exists() for row, seed in plan.runs())


def _anchor(plan: Table) -> str:
    return "bench-" + plan.mark.replace(":", "-")


# "relative": the student's accuracy over its teacher's; where a row learnt from the teacher and the real data, also
# over that one's. Which of the two CGDD's abstract means is not known.
_COLUMNS = (
    "method", "parameters", "published", "accuracy, %", "relative, %", "last step, %", "agreement with teacher, %",
    "largest class of its images, %", "student steps", "operations", "time a run", "seeds",
)  # fmt: skip


def table(plan: Table, note: str | None = None) -> str:
    """The table as Markdown, from the records that are there; of one without any only what it would hold.

    ``note``: what stands under it; None is the suite's own.
    """
    if not _measured(plan):
        names = ", ".join(row.name for row in plan.rows)
        return f"### {plan.title}\n\nNot measured yet: {names}.\n\n`{_command(plan)}`\n"
    records = [
        [json.loads(p.read_text()) for s in row.seeds or plan.seeds if (p := plan.record(row, s)).exists()]
        for row in plan.rows
    ]
    taught = [_score(r["summary"]["student"]) for some in records for r in some if _on_real_data(r)]
    real = statistics.mean(taught) if taught else None
    head = [c if c != "relative, %" or real is None else "of the teacher's / of real data's, %" for c in _COLUMNS]
    lines = [f"### {plan.title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    found = [[r["summary"] for r in some] for some in records]
    lines += [_line(row, some, real) for row, some in zip(plan.rows, found, strict=True)]
    every = [summary for some in found for summary in some]
    first = every[0]
    if "miou" in first["student"]:
        lines[2] = lines[2].replace("accuracy", "mean IoU").replace("its images", "its images' pixels")
    teacher, machines = first["teacher"], dict.fromkeys(_machine(summary) for summary in every)
    students = dict.fromkeys(f"{s['student']['name']}, {s['student']['params']:,} parameters" for s in every)
    lines += [
        "",
        f"Teacher {teacher['name']}, {teacher['params']:,} parameters, {_score(teacher):.2%}; student "
        f"{' or '.join(students)}. Scored on {first['data']}; delivered weights: {first['selection']}. "
        f"{'; '.join(machines)}.",
    ]
    # YAML's folded text has one line end where a paragraph ends, Markdown two.
    words = (plan.note if note is None else note).strip().replace("\n", "\n\n")
    lines += ["", words, "", f"`{_command(plan)}`", ""]
    return "\n".join(lines)


def _on_real_data(record: Mapping[str, Any]) -> bool:
    """Whether a student learnt from the teacher on the real images: not from labels."""
    method = record["settings"]["method"]
    return bool(method["name"] == "real_data" and method.get("loss") != "labels")


def _machine(summary: Mapping[str, Any]) -> str:
    """What a run was computed on, and in which numbers: rows of one table may come from several machines."""
    machine = summary["machine"]
    cpu = f"{machine['cpu']}, {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    gpu = machine.get("gpu") if summary["device"] == "cuda" else None
    return f"{gpu or cpu}, torch {machine['torch']}, {_numbers(summary)}"


def _numbers(summary: Mapping[str, Any]) -> str:
    return "float32" if summary["precision"] == "32" else summary["precision"]


def _command(plan: Table) -> str:
    chosen = f" --tables '[{plan.key}]'" if plan.key else ""
    return f"dreamstill bench {plan.path.stem}{chosen} --data-root DIR"


def _line(row: Row, found: list[dict[str, Any]], real: float | None) -> str:
    if not found:
        return f"| {row.name} |  | {row.published} | not measured |" + " |" * (len(_COLUMNS) - 5) + " 0 |"
    flops = [s.get("total_flops") or 0.0 for s in found]
    numbers = {_numbers(s) for s in found} - {"float32"}
    relative = [_spread([100 * _score(s["student"]) / _score(s["teacher"]) for s in found])]
    if real is not None:
        relative.append(_spread([100 * _score(s["student"]) / real for s in found]))
    cells = [
        f"{found[0]['student']['params']:,}",
        row.published,
        _spread([100 * _score(s["student"]) for s in found]),
        " / ".join(relative),
        _spread([100 * _score(s["student"], "_last") for s in found]),
        _spread([100 * s["agreement"] for s in found]),
        _spread([100 * max(s["class_histogram"]) / sum(s["class_histogram"]) for s in found]),
        f"{found[0]['steps']:,}",
        unit(statistics.mean(flops), "FLOP") if all(flops) else "",
        ", ".join([f"{statistics.mean(s['wall_seconds'] for s in found):.0f} s", *sorted(numbers)]),
        str(len(found)),
    ]
    return f"| {row.name} | {' | '.join(cells)} |"


def _score(network: Mapping[str, Any], which: str = "") -> float:
    """What a network is judged by: mean IoU where its outputs are maps, else accuracy."""
    return network[f"miou{which}"] if "miou" in network else network[f"accuracy{which}"]


def _spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
