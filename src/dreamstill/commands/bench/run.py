"""``dreamstill bench``: run a suite of recipes over seeds, keep one raw record a run, make the tables from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

from dreamstill.commands.bench.suite import Row, Table, read_suite
from dreamstill.commands.bench.summaries import write_tables
from dreamstill.commands.distill import run_distillation
from dreamstill.errors import InputError
from dreamstill.files import write_json
from dreamstill.messages import say
from dreamstill.runs.config_file import read_run
from dreamstill.runs.metrics_log import read_metrics
from dreamstill.runs.resume import differing
from dreamstill.runs.settings import DistillSettings

# What a record keeps of a run's summary: all of it but what is long and drawn elsewhere.
_DROPPED = ("confusion", "classes")
_CURVE_ROWS = 20


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
    _check_known(path, "tables", tables, [plan.key for plan in plans])
    _check_known(path, "rows", rows, [row.name for plan in plans for row in plan.rows])
    planned = sorted({seed for plan in plans for _, seed in plan.runs()})
    _check_known(path, "seeds", None if seeds is None else [str(s) for s in seeds], [str(s) for s in planned])
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
        _run_in_parallel(todo, data_root, jobs, quiet)
    else:
        for plan, row, seed in todo:
            _run(plan, row, seed, data_root, quiet)
    text = write_tables(plans)
    if not quiet:
        say(text)
    return text


def _check(plan: Table, row: Row) -> None:
    """Find a missing recipe, or an unknown setting in one, before the first run and not hours later."""
    if unknown := sorted(set(plan.settings(row)) - {f.name for f in fields(DistillSettings)}):
        raise InputError(
            f"row {row.name} of {plan.path} or its recipe {row.recipe} sets {', '.join(unknown)}: expected arguments "
            "of dreamstill distill"
        )


def _check_known(path: Path, what: str, wanted: Sequence[str] | None, there: Sequence[str]) -> None:
    if wanted is not None and not set(wanted) <= set(there):
        raise InputError(f"{path} has the {what} {', '.join(there)}, not all of {', '.join(wanted)}")


def _run_in_parallel(todo: Sequence[tuple[Table, Row, int]], data_root: str | None, jobs: int, quiet: bool) -> None:
    """Run each in its own process with its share of the cores: runs that use all cores slow each other down."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))

    def one(job: tuple[Table, Row, int]) -> str | None:
        plan, row, seed = job
        words = [sys.executable, "-m", "dreamstill", "bench", str(plan.path), "--rows", json.dumps([row.name])]
        words += ["--tables", json.dumps([plan.key]), "--seeds", f"[{seed}]", "--quiet"]
        words += ["--data-root", data_root] if data_root else []
        done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": threads}, stderr=subprocess.PIPE, text=True)
        name = f"{plan.key} {row.name}".strip() + f", seed {seed}"
        if not quiet:
            say(f"{name}: {'failed' if done.returncode else 'done'}")
        return f"{name}: {done.stderr.strip()[-300:]}" if done.returncode else None

    with ThreadPoolExecutor(jobs) as pool:
        failed = [said for said in pool.map(one, todo) if said]
    if failed:
        raise InputError(f"{len(failed)} of {len(todo)} runs failed, the others are recorded; {'; '.join(failed)}")


def _run(plan: Table, row: Row, seed: int, data_root: str | None, quiet: bool) -> None:
    """One run, resumed where an earlier attempt was stopped, and its record."""
    written = {**plan.settings(row), "seed": seed}
    for key in ("teacher_checkpoint", "student_checkpoint"):
        if written.get(key):
            written[key] = str(plan.root / written[key])
    record = plan.record(row, seed)
    out = plan.root / "runs" / "bench" / plan.path.stem / record.stem
    if not quiet:
        say(f"\n{row.name}, seed {seed}")
    resume = (out / "config.yaml").exists()
    settings = DistillSettings(**written, data_root=data_root, out=str(out), resume=resume, quiet=quiet)
    if not (out / "report.html").exists():
        run_distillation(settings)
    elif others := differing(
        settings, [name for name in written if name not in ("minutes", "preset")], read_run(out / "config.yaml")
    ):
        was = ", ".join(f"{key} {value} where the row has {now}" for key, now, value in others)
        raise InputError(f"the finished run in {out} is of other settings, {was}: remove that folder to make it anew")
    summary = json.loads((out / "summary.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    kept = {k: v for k, v in summary.items() if k not in _DROPPED}
    about = {"row": row.name, "recipe": row.recipe, "settings": written, "commit": manifest["commit"]}
    curve = _thinned(read_metrics(out / "metrics.csv"))
    write_json(record, {**about, "teacher_sha256": manifest["teacher_sha256"], "summary": kept, "curve": curve})


def _thinned(rows: Mapping[int, dict[str, float]]) -> list[dict[str, float]]:
    """The course of a run as a record keeps it, to outlive the run's folder: all scores, some of the losses."""
    every = max(1, len(rows) // _CURVE_ROWS)
    wanted = (s for i, s in enumerate(sorted(rows)) if i % every == 0 or any(k.startswith("eval/") for k in rows[s]))
    return [{"step": s, **{k: float(f"{v:.6g}") for k, v in rows[s].items()}} for s in wanted]
