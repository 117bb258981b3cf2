"""``dreamstill profile``: a recipe's iteration taken apart, beside what this machine could do."""

from __future__ import annotations

import inspect
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from dreamstill import api, budget, cost
from dreamstill.config import build_method, method_spec
from dreamstill.distilling import DEFAULT_STEPS, resolve_student, resolve_teacher
from dreamstill.engine import Engine, Given, Hardware, choose
from dreamstill.errors import InputError
from dreamstill.files import write_json
from dreamstill.methods import Method
from dreamstill.profiling.growth import measure_growth
from dreamstill.profiling.peaks import alone, machine_peaks
from dreamstill.profiling.record import Op, Recorder
from dreamstill.profiling.steps import iterate, prepared
from dreamstill.report.profile import write_profile
from dreamstill.state import new_folder
from dreamstill.tasks import task_of

SCHEMA = 1
WARM, ROUNDS = 2, 5


def run_profile(settings: dict[str, Any]) -> dict[str, Any]:
    """Carry out :func:`dreamstill.api.profile`."""
    recipe = read_recipe(Path(settings["recipe"]))
    method, given = build_method(recipe["method"]), given_of(recipe)
    hardware = hardware_of(settings, recipe, method, given)
    out = Path(settings["out"]) if settings["out"] else new_folder(Path("runs"), "profile")
    if (out / "profile.json").exists():
        raise InputError(f"{out} holds a profile already: choose another --out")
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "recipe": Path(settings["recipe"]).stem,
        "method": method_spec(method),
        "teacher": given.teacher.description(),
        "student": given.student.description(),
        "precision": hardware.precision,
        "device": hardware.device,
        "machine": cost.machine(),
        **take_apart(method, given, hardware),
    }
    if hardware.compile:
        found["compiled"] = compiled(recipe, hardware)
    found["growth"] = measure_growth(recipe, given_of(recipe), hardware) if settings["growth"] else {}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "profile.json", found)
    write_profile(out, found)
    print(json.dumps(found, indent=2)) if settings["json"] else show(found, out)
    return found


def read_recipe(path: Path) -> dict[str, Any]:
    """The arguments of ``distill`` in a recipe, with the defaults of those it leaves out; ``said``: those in it."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"the recipe {path} cannot be read ({error}): give a YAML file as in recipes/") from error
    defaults = {k: p.default for k, p in inspect.signature(api.distill).parameters.items()}
    unknown = sorted(set(content) - set(defaults)) if isinstance(content, dict) else [f"{type(content).__name__}"]
    if unknown:
        raise InputError(f"the recipe {path} has {', '.join(unknown)}, which dreamstill distill does not take")
    return {**defaults, **content, "said": set(content)}


def hardware_of(settings: dict[str, Any], recipe: dict[str, Any], method: Method, given: Given) -> Hardware:
    """What the run of the recipe would choose, where the command line does not say otherwise.

    Compilation is measured only where somebody asked for it: it takes longer than all the rest.
    """
    device, precision = (settings[key] or recipe[key] for key in ("device", "precision"))
    compile = settings["compile"] or (recipe["compile"] if "compile" in recipe["said"] else "off")
    return choose(device, precision, compile, (recipe["steps"] or DEFAULT_STEPS) * budget.work(method, given))


def given_of(recipe: dict[str, Any]) -> Given:
    """The recipe's networks; noise in place of real images, which cost the same."""
    teacher = resolve_teacher(recipe)
    real = torch.randint(256, (2048, teacher.channels, *teacher.image_size), dtype=torch.uint8)
    each = teacher.image_size if task_of(teacher).name == "segmentation" else ()
    labels = torch.randint(teacher.num_classes, (2048, *each))
    logits = torch.randn(2048, teacher.num_classes)
    return Given(teacher, resolve_student(recipe, teacher), real, labels, real, real, logits)


def take_apart(method: Method, given: Given, hardware: Hardware) -> dict[str, Any]:
    """The eager iteration: its time, its parts, and the floor under it, all measured in this process."""
    engine = prepared(method, given, hardware)
    iterate(engine, method, WARM)
    whole = iterate(engine, method, ROUNDS, WARM)
    ops = record(engine, method)
    peaks = machine_peaks(engine.device)
    floors = floors_of(ops, alone(ops, engine.device), peaks["copy_bytes"])
    again = iterate(engine, method, ROUNDS, WARM + ROUNDS + 1)
    parts = summarise(ops, floors)
    return {
        "iteration_seconds": statistics.median(whole + again),
        "all_iteration_seconds": [*whole, *again],
        "floor_seconds": sum(p["floor_seconds"] for p in parts),
        "flops": sum(p["flops"] for p in parts),
        "parts": parts,
        "peaks": peaks,
    }


def record(engine: Engine, method: Method) -> list[Op]:
    """The operations of one iteration, each with the step and the part it belongs to."""
    teacher = engine.given.teacher
    frozen = {("teacher" if m is teacher else f"frozen {i}"): m for i, m in enumerate(engine.frozen_modules)}
    recorder = Recorder({**frozen, **engine.modules}, engine.device)
    minimise, make = engine.minimise, engine.make

    def watched_minimise(fn: Any, *owned: Any, inputs: Any = ()) -> Any:
        with recorder.during(f"{owned[0].name} step"):
            return minimise(fn, *owned, inputs=inputs)

    def watched_make(network: Any, *inputs: Any) -> Any:
        with recorder.during("image making"):
            return make(network, *inputs)

    engine.minimise, engine.make = watched_minimise, watched_make  # type: ignore[method-assign]
    try:
        with recorder:
            iterate(engine, method, 1, WARM + ROUNDS)
    finally:
        engine.minimise, engine.make = minimise, make  # type: ignore[method-assign]
        recorder.close()
    return recorder.ops


def floors_of(ops: list[Op], matrix: list[float], bandwidth: float) -> list[float]:
    """The least time of each operation: matrix operations alone, batch norm as its bytes at the speed of a copy."""
    return [alone + op.normalising / bandwidth for op, alone in zip(ops, matrix, strict=True)]


def summarise(ops: list[Op], floors: list[float]) -> list[dict[str, Any]]:
    """One row a part of a step, the costliest first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for op, floor in zip(ops, floors, strict=True):
        row = rows.setdefault(
            (op.step, op.part),
            {"step": op.step or "between", "part": op.part, "operations": 0, "flops": 0.0, "bytes": 0}
            | {"matrix_bytes": 0, "seconds": 0.0, "matrix_seconds": 0.0, "floor_seconds": 0.0},
        )
        row["operations"] += 1
        row["flops"] += op.flops
        row["bytes"] += op.bytes
        row["seconds"] += op.seconds
        row["floor_seconds"] += floor
        if op.flops:
            row["matrix_bytes"] += op.bytes
            row["matrix_seconds"] += op.seconds
    return sorted(rows.values(), key=lambda r: -r["seconds"])


def compiled(recipe: dict[str, Any], hardware: Hardware) -> dict[str, Any]:
    """The same iteration with compiled steps, and what compiling cost."""
    method = build_method(recipe["method"])
    engine = prepared(method, given_of(recipe), hardware, compile=True)
    first = iterate(engine, method, WARM)
    seconds = iterate(engine, method, 2 * ROUNDS, WARM)
    return {
        "iteration_seconds": statistics.median(seconds),
        "all_iteration_seconds": seconds,
        "first_seconds": sum(first),
    }


def show(found: dict[str, Any], out: Path) -> None:
    """The table for the terminal."""
    table = Table("step", "part", "GFLOP", "MB", "ms", "floor ms", title=found["recipe"], title_justify="left")
    for row in found["parts"]:
        numbers = (row["flops"] / 1e9, row["bytes"] / 1e6, row["seconds"] * 1e3, row["floor_seconds"] * 1e3)
        table.add_row(row["step"], row["part"], *(f"{v:.3g}" if v else "" for v in numbers))
    console = Console()
    console.print(table)
    took, floor = found["iteration_seconds"], found["floor_seconds"]
    console.print(f"iteration {took * 1e3:.4g} ms, floor {floor * 1e3:.4g} ms: {floor / took:.0%} of the time")
    if "compiled" in found:
        c = found["compiled"]
        console.print(
            f"compiled  {c['iteration_seconds'] * 1e3:.4g} ms: {floor / c['iteration_seconds']:.0%}; compiling took "
            f"{c['first_seconds']:.0f} s"
        )
    console.print(f"{out / 'profile.html'}")
