"""``dreamstill bench``: run a suite of recipes over seeds, keep one raw record a run, make the tables from them."""

from __future__ import annotations

import inspect
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamstill import api
from dreamstill.config import method_spec, read_settings
from dreamstill.errors import InputError
from dreamstill.files import atomic_write, write_json
from dreamstill.report.numbers import unit
from dreamstill.track import read_metrics

# What a record keeps of a run's summary: all of it but what is long and drawn elsewhere.
_DROPPED = ("confusion", "classes")
_CURVE_ROWS = 20


@dataclass(frozen=True)
class Row:
    """One line of a table: a recipe and what the suite changes in it."""

    name: str
    recipe: str
    published: str = ""
    seeds: tuple[int, ...] | None = None  # in place of the table's
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One table of a suite: rows, seeds and what all rows share."""

    path: Path  # of the suite
    key: str  # within the suite; empty in a suite of one table
    title: str
    note: str
    short: str  # in the note's place where there is room for a few lines only, the readme
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
        return settings

    def record(self, row: Row, seed: int) -> Path:
        """Where a run's record lies."""
        stem = "".join(c if c.isalnum() else "-" for c in f"{self.key} {row.name}".lower()).strip("-")
        return self.path.parent / "records" / self.path.stem / f"{stem}-seed{seed}.json"


def read_suite(path: Path) -> tuple[Table, ...]:
    """Read ``benchmarks/NAME.yaml``: one table, or several by their keys under ``tables``.

    Raises:
        InputError: not there, or a key is missing or unknown.
    """
    content = read_settings(path, "the suite", "give a file as benchmarks/fashion.yaml")
    tables = content["tables"] if set(content) == {"tables"} else {"": content}
    if not isinstance(tables, Mapping) or not all(isinstance(content, Mapping) for content in tables.values()):
        raise InputError(f"{path} has the tables {tables}: expected a key for each, with title, seeds and rows in it")
    return tuple(_table(path, key, content) for key, content in tables.items())


def _table(path: Path, key: str, content: Mapping[str, Any]) -> Table:
    where = f"{path}, table {key}," if key else str(path)
    unknown = set(content) - {"title", "note", "short", "seeds", "shared", "rows"}
    if unknown or not {"title", "rows", "seeds"} <= set(content):
        raise InputError(
            f"{where} has the keys {', '.join(content)}: expected title, note, short, "
            "seeds, shared and rows, or tables with these"
        )
    if not isinstance(content["rows"], list):
        raise InputError(f"{where} has the rows {content['rows']}: expected a list of rows with a name and a recipe")
    rows = tuple(_row(where, row) for row in content["rows"])
    shared = content.get("shared") or {}
    if not isinstance(shared, Mapping):
        raise InputError(f"{where} has shared: {shared}, expected settings by their names")
    note, short = content.get("note", ""), content.get("short", "")
    return Table(path, key, content["title"], note, short, _seeds(where, content["seeds"]), shared, rows)


def _row(where: str, content: Any) -> Row:
    keys = {"name": str, "recipe": str, "published": str, "seeds": list, "settings": dict}
    if not isinstance(content, dict) or set(content) - set(keys) or not {"name", "recipe"} <= set(content):
        raise InputError(f"{where} has the row {content}: expected the keys {', '.join(keys)}, at least the first two")
    for key, kind in keys.items():
        if key in content and not isinstance(content[key], kind):
            words = {str: "a text", list: "a list", dict: "settings by their names"}[kind]
            raise InputError(f"{where} has a row with {key}: {content[key]}, expected {words}")
    seeds = _seeds(f"{where}, row {content['name']},", content["seeds"]) if "seeds" in content else None
    return Row(**{**content, "seeds": seeds})


def _seeds(where: str, seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(f"{where} has the seeds {seeds}: expected a list of whole numbers, as [0, 1, 2]")
    return tuple(seeds)


def run_bench(
    suite: str,
    data_root: str | None,
    seeds: list[int] | None,
    tables: list[str] | None,
    rows: list[str] | None,
    jobs: int,
    quiet: bool,
) -> str:
    """Carry out :func:`dreamstill.api.bench`."""
    if jobs < 1:
        raise InputError(f"jobs is {jobs}: it must be at least 1")
    path = Path(suite) if suite.endswith(".yaml") else Path("benchmarks") / f"{suite}.yaml"
    plans = read_suite(path)
    _all_there(path, "tables", tables, [plan.key for plan in plans])
    _all_there(path, "rows", rows, [row.name for plan in plans for row in plan.rows])
    planned = sorted({seed for plan in plans for _, seed in plan.runs()})
    _all_there(path, "seeds", None if seeds is None else [str(s) for s in seeds], [str(s) for s in planned])
    todo = [
        (plan, row, seed)
        for plan in plans
        if tables is None or plan.key in tables
        for row, seed in plan.runs()
        if (seeds is None or seed in seeds)
        if (rows is None or row.name in rows) and not plan.record(row, seed).exists()
    ]
    for plan, row, _ in todo:
        _check(plan, row)
    if jobs > 1 and len(todo) > 1:
        _run_side_by_side(todo, data_root, jobs, quiet)
    else:
        for plan, row, seed in todo:
            _run(plan, row, seed, data_root, quiet)
    texts = [table(plan) for plan in plans]
    text = "\n".join(texts)
    atomic_write(path.with_suffix(".md"), text)
    for plan in plans:
        _into_readme(plan)
    _into_results(plans[0].root)
    if not quiet:
        print(text)
    return text


def _check(plan: Table, row: Row) -> None:
    """A recipe that is not there, or says what nobody knows, is found before the first run and not hours later."""
    known = inspect.signature(api.distill).parameters
    if unknown := sorted(set(plan.settings(row)) - set(known)):
        raise InputError(
            f"row {row.name} of {plan.path} or its recipe {row.recipe} sets {', '.join(unknown)}: expected arguments "
            "of dreamstill distill"
        )


def _all_there(path: Path, what: str, wanted: Sequence[str] | None, there: Sequence[str]) -> None:
    if wanted is not None and not set(wanted) <= set(there):
        raise InputError(f"{path} has the {what} {', '.join(there)}, not all of {', '.join(wanted)}")


def _run_side_by_side(todo: Sequence[tuple[Table, Row, int]], data_root: str | None, jobs: int, quiet: bool) -> None:
    """Each run in a process of its own with its share of the cores: two that use all of them hinder each other."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))

    def one(job: tuple[Table, Row, int]) -> str | None:
        plan, row, seed = job
        words = [sys.executable, "-m", "dreamstill", "bench", str(plan.path), "--rows", json.dumps([row.name])]
        words += ["--tables", json.dumps([plan.key]), "--seeds", f"[{seed}]", "--quiet"]
        words += ["--data-root", data_root] if data_root else []
        done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": threads}, stderr=subprocess.PIPE, text=True)
        name = f"{plan.key} {row.name}".strip() + f", seed {seed}"
        if not quiet:
            print(f"{name}: {'failed' if done.returncode else 'done'}", flush=True)
        return f"{name}: {done.stderr.strip()[-300:]}" if done.returncode else None

    with ThreadPoolExecutor(jobs) as pool:
        failed = [said for said in pool.map(one, todo) if said]
    if failed:
        raise InputError(f"{len(failed)} of {len(todo)} runs failed, the others are recorded; {'; '.join(failed)}")


def _run(plan: Table, row: Row, seed: int, data_root: str | None, quiet: bool) -> None:
    """One run, resumed where an earlier attempt was stopped, and its record."""
    settings = {**plan.settings(row), "seed": seed}
    for key in ("teacher_checkpoint", "student_checkpoint"):
        if settings.get(key):
            settings[key] = str(plan.root / settings[key])
    record = plan.record(row, seed)
    out = plan.root / "runs" / "bench" / plan.path.stem / record.stem
    if not quiet:
        print(f"\n{row.name}, seed {seed}", flush=True)
    resume = (out / "config.yaml").exists()
    if not (out / "report.html").exists():
        api.distill(**settings, data_root=data_root, out=str(out), resume=resume, quiet=quiet)
    summary = json.loads((out / "summary.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    kept = {k: v for k, v in summary.items() if k not in _DROPPED}
    settings.pop("data_root", None)
    about = {"row": row.name, "recipe": row.recipe, "settings": settings, "commit": manifest["commit"]}
    curve = _thinned(read_metrics(out / "metrics.csv"))
    write_json(record, {**about, "teacher_sha256": manifest["teacher_sha256"], "summary": kept, "curve": curve})


def _thinned(rows: Mapping[int, dict[str, float]]) -> list[dict[str, float]]:
    """The course of a run as a record keeps it, to outlive the run's folder: all scores, some of the losses."""
    every = max(1, len(rows) // _CURVE_ROWS)
    wanted = (s for i, s in enumerate(sorted(rows)) if i % every == 0 or any(k.startswith("eval/") for k in rows[s]))
    return [{"step": s, **{k: float(f"{v:.6g}") for k, v in rows[s].items()}} for s in wanted]


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
    """All suites' tables on one page."""
    pages = [path.with_suffix(".md") for path in sorted((root / "benchmarks").glob("*.yaml"))]
    tables = [page.read_text() for page in pages if page.exists()]
    head = (
        "# Results\n\nMade by `dreamstill bench SUITE` from the records in `benchmarks/records/`, one JSON a run. "
        "Accuracies are\nmeans and standard deviations over seeds, of the weights that a fixed rule delivers.\n\n"
    )
    atomic_write(root / "RESULTS.md", head + "\n".join(text.replace("### ", "## ") for text in tables))


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
    if not any(plan.record(row, seed).exists() for row, seed in plan.runs()):
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
    lines += ["", (plan.note if note is None else note).strip(), "", f"`{_command(plan)}`", ""]
    return "\n".join(lines)


def _on_real_data(record: Mapping[str, Any]) -> bool:
    """Whether a student learnt from the teacher on the real images: not from labels."""
    method = record["settings"]["method"]
    return bool(method["name"] == "real_data" and method.get("loss") != "labels")


def _machine(summary: Mapping[str, Any]) -> str:
    """What a run was computed on, and in which numbers: rows of one table may come from several machines."""
    machine = summary["machine"]
    cpu = f"{machine['cpu']}, {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return f"{machine.get('gpu') or cpu}, torch {machine['torch']}, {_numbers(summary)}"


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
