"""Which parts of an iteration take longer, along an axis, than their operations explain."""

from __future__ import annotations

import statistics
from itertools import combinations
from typing import Any, NamedTuple

TOLERANCE = 1.25  # times by which time may outgrow the work before a part is named
LEAST_SHARE = 0.01  # of the iteration: times of smaller parts are noise


class Reading(NamedTuple):
    """A part at one point of an axis."""

    value: float
    seconds: list[float]  # of each run
    flops: float
    bytes: float
    share: float  # of the iteration's time


def outgrown(readings: list[Reading]) -> dict[str, Any] | None:
    """The stretch over which a part's time outgrew its work most, or None if it never did.

    Work is its FLOPs, or its bytes where it has none. Of the time's growth the least counts that the middle half
    of the runs leaves possible, the first quartile at the larger point over the third at the smaller; a stretch is any
    two points, because what a call costs by itself hides the beginning of the growth.
    """
    work = "flops" if all(r.flops for r in readings) else "bytes"
    worst: dict[str, Any] | None = None
    for low, high in combinations(readings, 2):
        before, after = (float(getattr(r, work)) for r in (low, high))
        if not before or high.share < LEAST_SHARE:
            continue
        time, grown = _quartile(high.seconds, 1) / _quartile(low.seconds, 3), after / before
        if time > TOLERANCE * grown and (worst is None or time / grown > worst["time"] / worst["work"]):
            worst = {"from": low.value, "to": high.value, "time": time, "work": grown, "of": work}
    return worst


def _quartile(seconds: list[float], which: int) -> float:
    return statistics.quantiles(seconds, n=4, method="inclusive")[which - 1]


def faster_parts(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of a phase that outgrow their work, the worst first; ``points`` have a value and parts each."""
    readings: dict[tuple[str, str], list[Reading]] = {}
    for point in points:
        total = sum(min(p["seconds"]) for p in point["parts"])
        for p in point["parts"]:
            reading = Reading(point["value"], p["seconds"], p["flops"], p["bytes"], min(p["seconds"]) / total)
            readings.setdefault((p["step"], p["part"]), []).append(reading)
    found = [{"step": step, "part": part, **(outgrown(each) or {})} for (step, part), each in readings.items()]
    return sorted((f for f in found if "time" in f), key=lambda f: -f["time"] / f["work"])


def sentence(found: dict[str, Any]) -> str:
    """``4.1 times the time for 2 times the operations from 64 to 128``."""
    of = "operations" if found["of"] == "flops" else "bytes"
    stretch = f"from {found['from']:g} to {found['to']:g}"
    return f"{found['time']:.3g} times the time for {found['work']:.3g} times the {of}, {stretch}"
