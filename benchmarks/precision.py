"""Time one DDAD iteration in float32 and bf16, eager and compiled, alternating A B A B in one process; print JSON.

The figures behind `precision: auto` and `compile: auto` on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from dreamstill.engine import Engine, Given
from dreamstill.engine.hardware import conv_speed
from dreamstill.engine.launch import settle_process
from dreamstill.methods.ddad import DDAD
from dreamstill.networks import builtin
from dreamstill.networks.network import Network
from dreamstill.runs.machine import machine
from dreamstill.tasks.classification import Classification


def network(name: str) -> Network:
    module = builtin.build(name, num_classes=10, channels=3, image_size=32)
    return Network(module, num_classes=10, image_size=32, mean=[0.5] * 3, std=[0.25] * 3, name=name)


def prepared(precision: str, compile: bool, width: int) -> tuple[Engine, DDAD]:
    engine = Engine(
        Given(network("wrn_16_2"), network("wrn_16_1"), task=Classification()),
        device="cpu",
        precision=precision,
        compile=compile,
        steps=1000,
    )
    method = DDAD(batch_size=128, nz=128, width=width)
    method.setup(engine)
    return engine, method


def iteration(engine: Engine, method: DDAD, i: int) -> float:
    start = time.perf_counter()
    engine.begin(i, 0.1)
    method.step(engine)
    engine.read()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    settle_process()
    kinds = {f"{p} {'compiled' if c else 'eager'}": (p, c) for p in ("32", "bf16") for c in (False, True)}
    runs, first, times = {}, {}, {k: [] for k in kinds}
    for kind, (precision, compile) in kinds.items():
        runs[kind] = prepared(precision, compile, options.width)
        first[kind] = iteration(*runs[kind], 0)
        iteration(*runs[kind], 1)
    for i in range(options.rounds):
        for kind in kinds:
            times[kind].append(iteration(*runs[kind], 2 + i))
    found = {
        "pair": "wrn_16_2 to wrn_16_1, batch 128, 1 generator and 5 student steps",
        "width": options.width,
        "machine": machine(),
        "conv_gflops": {str(d): conv_speed(d, runs=16) / 1e9 for d in (torch.float32, torch.bfloat16)},
        "first_iteration_s": first,
        "iteration_s": {k: statistics.median(v) for k, v in times.items()},
        "all_s": times,
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
