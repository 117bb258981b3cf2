"""Whether a run's memory stays flat: resident memory sampled along the demo's distillation.

``python benchmarks/memory.py`` trains the demo's teacher, distils it for ``--steps`` student steps while a thread looks
at the process twice a second, and writes the samples to ``benchmarks/records/memory/``. Printed is how much more the
process holds in the last quarter of the run than in the second: growth with time, not the filling of the bank, which is
allocated at the start.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

from dreamstill import api
from dreamstill.commands.demo import METHOD, STUDENT, TEACHER
from dreamstill.engine.launch import settle_process
from dreamstill.files import write_json
from dreamstill.runs.machine import machine

RECORD = Path(__file__).parent / "records" / "memory" / "demo.json"


def resident() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sampled(seconds: list[float], held: list[int], stop: threading.Event) -> None:
    began = time.perf_counter()
    while not stop.wait(0.5):
        seconds.append(time.perf_counter() - began)
        held.append(resident())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    options = parser.parse_args()
    settle_process()
    seconds: list[float] = []
    held: list[int] = []
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        teacher = f"{folder}/teacher"
        common = {"data": "digits", "precision": "32", "compile": "off", "quiet": True}
        api.train("convnet", network_args=TEACHER, epochs=5, crop=1, out=teacher, **common)
        watcher = threading.Thread(target=sampled, args=(seconds, held, stop))
        watcher.start()
        api.distill(
            teacher_checkpoint=teacher, student="convnet", student_args=STUDENT, method=METHOD, steps=options.steps,
            out=f"{folder}/run", evaluations=10, onnx=False, **common,
        )  # fmt: skip
        stop.set()
        watcher.join()
    quarter = len(held) // 4
    early, late = (statistics.median(held[i * quarter : (i + 1) * quarter]) for i in (1, 3))
    growth = (late - early) / 2**20
    write_json(
        RECORD,
        {"machine": machine(), "steps": options.steps, "seconds": seconds, "bytes": held, "growth_mib": growth},
    )
    print(f"{late / 2**20:.0f} MiB in the last quarter of {seconds[-1]:.0f} s, {growth:+.1f} MiB since the second")


if __name__ == "__main__":
    main()
