"""The operations of an iteration, gathered by the step and the network they belong to."""

from __future__ import annotations

from typing import Any

from dreamstill.commands.profiling.record import Op, Recorder
from dreamstill.commands.profiling.steps import iterate
from dreamstill.engine import Engine
from dreamstill.methods import Method, Phase


def record(engine: Engine, method: Method, phase: Phase | None = None, number: int = 7) -> list[Op]:
    """The operations of one iteration of a phase, or of the longest, each with its step and its part."""
    teacher = engine.given.teacher
    frozen = {("teacher" if m is teacher else f"frozen {i}"): m for i, m in enumerate(engine.frozen_modules)}
    recorder = Recorder({**frozen, **engine.modules}, engine.device)
    unwatched, engine.watch = engine.watch, recorder.during
    try:
        with recorder:
            iterate(engine, method, 1, number, phase)
    finally:
        engine.watch = unwatched
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
