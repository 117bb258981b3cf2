"""How many times faster a DDAD iteration is than the same written plainly (``plain_step.py``), in one run, A B A B.

``python benchmarks/step_ratio.py --json`` prints ``plain_s``, ``ours_s``, ``ratio`` and ``floor_share``: the share of
our time that its convolutions and matrix products would take alone, each at its own shape, measured in the same
process, together with the bytes that batch norm has to move at the speed of a copy; ``matrix_share`` is without the
latter. ``--least 2`` turns it into a guard: exit code 1 if the ratio is below. ``--record`` keeps the result in
``benchmarks/records/step_ratio/`` and makes the table in ``docs/speed.md`` anew.

A turn is several iterations, as a run is: the one right after the other process's finds the caches full of that one's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from plain_step import PlainDDAD

from dreamstill.commands.profiling.parts import floors_of, record
from dreamstill.commands.profiling.peaks import alone, machine_peaks
from dreamstill.commands.profiling.steps import iterate, prepared
from dreamstill.engine import Given, Hardware
from dreamstill.engine.launch import settle_process
from dreamstill.files import atomic_write, write_json
from dreamstill.methods.ddad import DDAD
from dreamstill.networks import builtin
from dreamstill.networks.network import Network
from dreamstill.runs.machine import machine
from dreamstill.tasks.classification import Classification

SIDE, CLASSES, NZ = 32, 10, 256
TURN = {"plain": 2, "ours": 6}  # iterations; about as long as each other where ours are several times faster
ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records" / "step_ratio"


def network(name: str) -> Network:
    torch.manual_seed(0)
    module = builtin.build(name, num_classes=CLASSES, channels=3, image_size=SIDE)
    return Network(module, num_classes=CLASSES, image_size=SIDE, mean=[0.5] * 3, std=[0.25] * 3, name=name)


def serve_plain(connection: Connection, options: argparse.Namespace) -> None:
    """Plain iterations on request, in their own process: what the engine tells the allocator must not help them."""
    teacher, student = network(options.teacher).module, network(options.student).module
    plain = PlainDDAD(teacher, student, width=options.width, nz=NZ, batch=options.batch, channels=3, side=SIDE)
    plain.iteration()
    while connection.recv():
        start = time.perf_counter()
        plain.iteration()
        connection.send(time.perf_counter() - start)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    teacher, student = network(options.teacher), network(options.student)
    ask, answer = multiprocessing.get_context("spawn").Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=serve_plain, args=(answer, options), daemon=True)
    worker.start()
    method = DDAD(batch_size=options.batch, nz=NZ, width=options.width)
    hardware = Hardware("cpu", options.precision, False)
    engine = prepared(method, Given(teacher, student, task=Classification()), hardware, compile=options.compile == "on")
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    ask.send(True)
    ask.recv()
    started = time.perf_counter()
    iterate(engine, method, 2)
    warm_up = time.perf_counter() - started
    for i in range(options.rounds):
        for _ in range(TURN["plain"]):
            ask.send(True)
            times["plain"].append(ask.recv())
        times["ours"] += iterate(engine, method, TURN["ours"], 2 + i * TURN["ours"])
    ask.send(False)
    worker.join()
    with engine.eagerly():
        ops = record(engine, method)
    peaks = machine_peaks(engine.device)
    matrix = alone(ops, engine.device)
    floor_s = sum(floors_of(ops, matrix, peaks["copy_bytes"]))
    plain_s, ours_s = (statistics.median(times[k]) for k in ("plain", "ours"))
    return {
        "pair": f"{options.teacher} to {options.student}, batch {options.batch}, generator width {options.width}",
        "precision": options.precision,
        "compile": options.compile,
        "plain_s": plain_s,
        "ours_s": ours_s,
        "ratio": plain_s / ours_s,
        "matrix_s": sum(matrix),
        "matrix_share": sum(matrix) / ours_s,
        "normalising_bytes": sum(op.normalising for op in ops),
        "floor_s": floor_s,
        "floor_share": floor_s / ours_s,
        "warm_up_s": warm_up,
        "flops": sum(op.flops for op in ops),
        "all_s": times,
        "peaks": peaks,
        "machine": machine(),
    }


def table() -> str:
    """Markdown, of all records; the machines differ, so a row names its convolutions' peaks."""
    lines = [
        "| GFLOP/s of a convolution, float32 and bf16 | ours in | generator width | plain | ours | ratio "
        "| convolutions and products alone | share of our time | with batch norm's bytes | compiling |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = [json.loads(path.read_text()) for path in sorted(RECORDS.glob("*.json"))]
    for r in sorted(found, key=lambda r: (r["precision"], -int(r["pair"].split()[-1]))):
        peaks = " and ".join(f"{r['peaks'][f'conv_{kind}'] / 1e9:.0f}" for kind in ("float32", "bfloat16"))
        precision = {"32": "float32"}.get(r["precision"], r["precision"])
        whole = f"{r['floor_share']:.0%}" if "matrix_s" in r else "not measured"
        matrix_s = r.get("matrix_s", r["floor_s"])
        lines.append(
            f"| {peaks} | {precision} | {r['pair'].split()[-1]} | {r['plain_s']:.2f} s | {r['ours_s']:.2f} s "
            f"| {r['ratio']:.2f} | {matrix_s:.2f} s | {matrix_s / r['ours_s']:.0%} | {whole} | {r['warm_up_s']:.0f} s |"
        )
    return "\n".join(lines)


def put(page: Path, mark: str, text: str) -> None:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    before, _, rest = page.read_text().partition(f"<!-- {mark} -->")
    _, _, after = rest.partition(f"<!-- /{mark} -->")
    atomic_write(page, f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="wrn_16_2")
    parser.add_argument("--student", default="wrn_16_1")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--compile", choices=("on", "off"), default="on")
    parser.add_argument("--least", type=float, default=0.0, help="exit with 1 if the ratio is below")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--record", action="store_true", help="keep the result, and make the table in docs/speed.md anew"
    )
    options = parser.parse_args()
    settle_process()  # ours only: the plain iteration has a process of its own
    found = measure(options)
    if options.record:
        write_json(RECORDS / f"{options.teacher}-width{options.width}-{options.precision}.json", found)
        put(ROOT / "docs" / "speed.md", "ratios", table())
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"{found['pair']}: plain {found['plain_s']:.2f} s, ours {found['ours_s']:.2f} s, ratio {found['ratio']:.2f}"
        )
        print(
            f"floor {found['floor_s']:.2f} s, {found['floor_share']:.0%} of ours; matrix operations alone "
            f"{found['matrix_share']:.0%}; warm-up {found['warm_up_s']:.0f} s"
        )
    return int(found["ratio"] < options.least)


if __name__ == "__main__":
    sys.exit(main())
