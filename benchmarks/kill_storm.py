"""A kill storm: SIGKILL at random moments, and every run taken up again must end in the same bits.

``python benchmarks/kill_storm.py --kills 100`` does so for each of the five methods, the control ``transfer``,
``train``, ``synthesize`` and ``bench``, on tiny networks and random images. A round starts the run in a process,
kills it after a random share of the time that an undisturbed one takes, which covers start, training, checkpoints,
ONNX, summary and report, and then lets another process finish what is left. Counted are the kills, those that found a
file half written, the rounds whose results equal the undisturbed run's bit for bit, and those that left something in
the run folder or in the folder for temporary files. The counts go to ``benchmarks/records/kill_storm/``, a file a
kind.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dreamstill.data.parquet import parquet_images
from dreamstill.files import SCRATCH, write_json
from dreamstill.runs.machine import machine

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records" / "kill_storm"

sys.path[:0] = [str(ROOT / "tests" / "workers"), str(ROOT / "tests")]
import storm  # noqa: E402
from helpers import processes  # noqa: E402


def start(kind: str, out: Path, scratch: Path) -> Any:
    """A process, forked from one that has imported all it needs."""
    return processes.start(storm.process, kind, str(out), str(scratch), said=out.with_suffix(".txt"))


def finish(kind: str, out: Path, scratch: Path) -> str:
    """Run to the end; what went wrong, or nothing."""
    process = start(kind, out, scratch)
    process.join()
    return out.with_suffix(".txt").read_text()[-500:] if process.exitcode else ""


def results(base: Path, kind: str, out: Path) -> dict[str, bytes]:
    """The bits that must be the same: weights, images with their order, and of a bench those of all its runs."""
    found: dict[str, bytes] = {}
    places = [out] if kind != "bench" else sorted((base / "runs" / "bench" / "storm").iterdir())
    for place in places:
        for file in sorted(place.glob("*.safetensors")):
            with safe_open(file, "numpy") as weights:
                found |= {f"{place.name}/{k}": weights.get_tensor(k).tobytes() for k in weights.keys()}
        for file in sorted(place.glob("*.parquet")):
            found |= {f"{place.name}/{name}": data for name, data in parquet_images([file])}
    return found


def clear(base: Path, kind: str, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    if kind == "bench":
        shutil.rmtree(base / "runs", ignore_errors=True)
        shutil.rmtree(base / "benchmarks" / "records", ignore_errors=True)


def half_written(base: Path) -> list[str]:
    return [str(p.relative_to(base)) for p in base.rglob(".*.tmp") if SCRATCH.fullmatch(p.name)]


def batter(kind: str, base: Path, kills: int, seed: int) -> dict[str, object]:
    """``kills`` rounds of one kind, and their counts."""
    out, scratch = base / f"run-{kind}", base / "tmp"
    scratch.mkdir(exist_ok=True)
    clear(base, kind, out)
    began = time.monotonic()
    failed = finish(kind, out, scratch)
    took, whole = time.monotonic() - began, results(base, kind, out)
    assert not failed, failed
    assert whole
    moments, counts = random.Random(seed), dict.fromkeys(("kills", "half_written", "same", "left_over"), 0)
    errors: list[str] = []
    while counts["kills"] < kills:
        clear(base, kind, out)
        process = start(kind, out, scratch)
        process.join(moments.uniform(0.0, 1.0) * took)
        if process.exitcode is not None:
            continue  # it was faster this time: no kill, no round
        process.kill()
        process.join()
        counts["kills"] += 1
        counts["half_written"] += bool(half_written(base))
        failed = finish(kind, out, scratch)
        same = not failed and results(base, kind, out) == whole
        counts["same"] += same
        counts["left_over"] += bool(half_written(out) if out.exists() else []) or any(scratch.iterdir())
        if failed or not same:
            errors.append(failed or "the results differ")
    return {"kind": kind, "seconds_undisturbed": took, **counts, "errors": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", default=list(storm.KINDS), choices=storm.KINDS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        storm.prepare(base)
        for kind in options.kinds:
            found = batter(kind, base, options.kills, options.seed)
            write_json(RECORDS / f"{kind}.json", {"machine": machine(), "seed": options.seed, **found})
            print(f"{kind}: {found['kills']} kills, {found['same']} the same, {found['left_over']} left something over")


if __name__ == "__main__":
    main()
