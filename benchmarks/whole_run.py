"""A whole distillation against the same job written plainly (``plain_step.py``): total wall time, and accuracy.

``python benchmarks/whole_run.py --data-root DATA`` distils CIFAR-10's WRN-16-2 into WRN-16-1 twice, one after the
other on all cores: 600 plain iterations of five student steps and one generator step along a cosine, and dreamstill's
``ddad`` with ``reuse`` in the budget that the options give, with the same networks, batch, weights of the losses and
rates. The plain student is scored once, outside its time. The record, ``benchmarks/records/whole_run/``, holds each
part by its seed; each alone can be asked for with ``--only``, and the other's figures are then kept from the record.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from plain_step import PlainDDAD

from dreamstill import api
from dreamstill.engine.launch import settle_process
from dreamstill.files import write_json
from dreamstill.networks import builtin
from dreamstill.networks.load import FACTS, resolve
from dreamstill.networks.network import Network
from dreamstill.runs.machine import machine
from dreamstill.tasks import task_of
from dreamstill.tasks.checks import load_scored

HERE = Path(__file__).parent
RECORD = HERE / "records" / "whole_run" / "wrn_16_2.json"
TEACHER = str(HERE / "teachers" / "cifar10_wrn16-2.safetensors")
STUDENT = "wrn_16_1"


def plainly(options: argparse.Namespace) -> dict[str, Any]:
    """The plain run; its networks take standardised images, so they are scored behind the teacher's normalisation."""
    torch.manual_seed(options.seed)
    teacher = resolve(None, TEACHER)
    about = {k: teacher.description()[k] for k in FACTS}
    module = builtin.build(STUDENT, num_classes=teacher.num_classes, channels=3, image_size=32)
    began = time.perf_counter()
    plain = PlainDDAD(
        teacher.module, module, width=options.width, nz=options.nz, batch=128, channels=3, side=32, alpha=options.alpha
    )
    rates = [group["lr"] for opt in (plain.opt_g, plain.opt_s) for group in opt.param_groups]
    for i in range(options.iterations):
        share = 0.5 * (1 + math.cos(math.pi * i / options.iterations))
        for opt, rate in zip((plain.opt_g, plain.opt_s), rates, strict=True):
            opt.param_groups[0]["lr"] = rate * share
        plain.iteration()
        if i % 50 == 49:
            print(f"plain: {i + 1} of {options.iterations}, {time.perf_counter() - began:.0f} s", flush=True)
    seconds = time.perf_counter() - began
    student = Network(module.eval(), **about)
    images = load_scored(student, "cifar10", "test", root=options.data_root)
    assert images.labels is not None
    task = task_of(student)
    accuracy = task.headline_of(task.predict(student, images.pixels), images.labels, student.num_classes)
    return {"seconds": seconds, "accuracy": accuracy, "student_steps": 5 * options.iterations}


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """The whole command, with everything that it checks, scores, writes and draws inside its wall time."""
    method = {
        "name": "ddad", "batch_size": 128, "nz": options.nz, "width": options.width, "schedule": "cosine",
        "alpha": options.alpha, "reuse": True, "student_steps": options.student_steps, **options.method,
    }  # fmt: skip
    settle_process()  # as the command line does
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        api.distill(
            teacher_checkpoint=TEACHER, student=STUDENT, method=method, steps=options.steps, seed=options.seed,
            precision=options.precision, compile=options.compile, data="cifar10", data_root=options.data_root,
            evaluations=2, out=f"{folder}/run", quiet=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return {
        "seconds": seconds,
        "parts": summary["seconds"],
        "accuracy": summary["student"]["accuracy"],
        "student_steps": summary["steps"],
        "generator_steps": summary["generator_steps"],
        "method": method,
        "precision": summary["precision"],
        "compile": options.compile,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--iterations", type=int, default=600, help="of the plain run")
    parser.add_argument("--steps", type=int, default=3000, help="student steps of ours")
    parser.add_argument("--student-steps", type=int, default=5, help="of ours to a generator step")
    parser.add_argument("--alpha", type=float, default=10.0, help="weight of the batch-norm term, of both")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--nz", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", choices=("on", "off"), default="on")
    parser.add_argument("--precision", default="bf16", help="of ours; the plain run is float32")
    parser.add_argument("--method", type=json.loads, default={}, help="more settings of ours, as JSON")
    parser.add_argument("--only", choices=("plain", "ours"))
    options = parser.parse_args()
    found = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name, run in (("plain", plainly), ("ours", ours)):
        if options.only in (None, name):
            chosen = {k: getattr(options, k) for k in ("width", "alpha", "seed")}
            result = {**run(options), **chosen, "machine": machine()}
            found.setdefault(name, {})[str(options.seed)] = result
            write_json(RECORD, found)
            print(f"{name}: {result['seconds']:.0f} s, {result['accuracy']:.2%}", flush=True)
    if {"plain", "ours"} <= found.keys():
        plain_s, ours_s = (mean(r["seconds"] for r in found[name].values()) for name in ("plain", "ours"))
        print(f"ratio {plain_s / ours_s:.2f}")


if __name__ == "__main__":
    main()
