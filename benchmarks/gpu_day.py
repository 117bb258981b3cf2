"""The first minutes on a borrowed GPU, in stages: tests, a profile, teachers, whole runs.

    python benchmarks/gpu_day.py STAGE [STAGE ...] --data-root DATA --out DIR

Each stage is a process of its own with a time box, writes ``DIR/STAGE.json`` when it ends, and is left out where that
file is there already. ``--mini`` rehearses all of them on a CPU in a few minutes, on digits in place of CIFAR.
Stages: ``about``, ``tests``, ``profile``, ``profile_resnet``, ``teacher10``, ``teacher100``, and for each teacher
``METHOD10`` and ``METHOD100`` with ddad, cpsc, cgdd, random_generator.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BOX = {"about": 60, "tests": 240, "profile": 150, "profile_resnet": 150}  # seconds; other stages: --box
# The best data-free row of benchmarks/cifar-cpu.yaml for each method, with batches for a GPU.
REUSE: dict[str, Any] = {
    "head": "linear", "reuse": True, "bank": 60_000, "student_steps": 12, "lr_g": 3e-3, "batch_size": 256,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "ddad": {"name": "ddad", "alpha": 10.0, **REUSE},
    "cpsc": {"name": "cpsc", "generator_steps": 1, **REUSE},
    "cgdd": {"name": "cgdd", "condition": "multiply", "w_bn": 10.0, "w_at": 0.0, "beta1": 0.5, **REUSE},
    "random_generator": {"name": "random_generator", "batch_size": 256, "flip": True},
}
MINI: dict[str, Any] = {"batch_size": 16, "width": 8, "bank": 512}


def main() -> None:
    """Run the stages asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=float, default=100, help="of the teachers")
    parser.add_argument("--steps", type=int, default=20_000, help="of the students")
    parser.add_argument("--box", type=float, default=400, help="seconds of a stage that has no time box of its own")
    parser.add_argument("--mini", action="store_true")
    parser.add_argument("--here", action="store_true", help="in this process, without a time box")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in args.stages:
        if (args.out / f"{stage}.json").exists():
            print(f"{stage}: there already", flush=True)
        elif args.here:
            carry_out(stage, args)
        else:
            apart(stage, args)


def apart(stage: str, args: argparse.Namespace) -> None:
    """The stage in a process of its own, ended when its time is up."""
    rest = ["--out", str(args.out), "--device", args.device, "--epochs", str(args.epochs), "--steps", str(args.steps)]
    rest += ["--data-root", args.data_root] if args.data_root else []
    rest += ["--mini"] if args.mini else []
    command = [sys.executable, __file__, stage, "--here", *rest]
    with open(args.out / f"{stage}.log", "w") as log:
        try:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=BOX.get(stage, args.box))
            print(f"{stage}: {'done' if code.returncode == 0 else f'ended with {code.returncode}'}", flush=True)
        except subprocess.TimeoutExpired:
            print(f"{stage}: its time was up", flush=True)


def carry_out(stage: str, args: argparse.Namespace) -> None:
    """One stage, and its file."""
    began = time.time()
    from dreamstill.runs.machine import machine

    done: dict[str, Any] = {"stage": stage, "machine": machine(), "mini": args.mini, "command": sys.argv[1:]}
    done |= work_of(stage)(args)
    done["seconds"] = time.time() - began
    part = args.out / f"{stage}.json.part"
    part.write_text(json.dumps(done, indent=1))
    os.replace(part, args.out / f"{stage}.json")


def work_of(stage: str) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """What a stage does."""
    if stage in ("about", "tests"):
        return {"about": about, "tests": tests}[stage]
    if stage == "profile":
        return functools.partial(profile, teacher="wrn_40_2", student="wrn_16_1")
    if stage == "profile_resnet":
        return functools.partial(profile, teacher="resnet34", student="resnet18")
    name, k = (stage[:-3], "100") if stage.endswith("100") else (stage[:-2], "10")
    if name == "teacher":
        return functools.partial(teach, k=k)
    return functools.partial(distil, method=name, k=k)


def about(args: argparse.Namespace) -> dict[str, Any]:
    """The machine's peaks."""
    import torch

    from dreamstill.commands.profiling.peaks import machine_peaks

    return {"torch": torch.__version__, "peaks": machine_peaks(torch.device(args.device))}


def tests(args: argparse.Namespace) -> dict[str, Any]:
    """The tests that need a card."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "cuda",
        "-n",
        "8",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "tests/gpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    print(done.stdout, done.stderr)
    return {"exit": done.returncode, "end": done.stdout[-6000:]}


def profile(args: argparse.Namespace, teacher: str, student: str) -> dict[str, Any]:
    """An iteration of DDAD: eager in float32 and bf16, compiled, and compiled with CUDA graphs."""
    import torch

    found: dict[str, Any] = {"teacher": teacher, "student": student, "iterations": {}}
    for name, precision, mode in (
        ("float32", "32", None), ("bf16", "bf16", None),
        ("bf16 compiled", "bf16", "default"), ("bf16 graphs", "bf16", "reduce-overhead"),
    ):  # fmt: skip
        torch._dynamo.reset()
        try:
            found["iterations"][name] = iteration(args, teacher, student, precision, mode)
        except Exception as error:  # the other ways are still worth knowing
            found["iterations"][name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(name, found["iterations"][name], flush=True)
        (args.out / "profile.partial.json").write_text(json.dumps(found, indent=1))
    return found


def iteration(args: argparse.Namespace, teacher: str, student: str, precision: Any, mode: str | None) -> dict[str, Any]:
    """Seconds of an iteration: the median of some groups, each waited for once."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dreamstill import methods
    from dreamstill.engine import Engine, Given
    from dreamstill.networks.load import resolve
    from dreamstill.tasks import task_of

    plain = torch.compile
    if mode is not None:
        torch.compile = functools.partial(plain, mode=mode)  # type: ignore[assignment]
    try:
        torch.manual_seed(0)
        facts: dict[str, Any] = {
            "num_classes": 10, "image_size": [32, 32], "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3,
            "kwargs": None,
        }  # fmt: skip
        network = resolve(teacher, None, **facts)
        given = Given(network, resolve(student, None, **facts), task=task_of(network))
        engine = Engine(given, device=args.device, precision=precision, compile=mode is not None, steps=10_000)
        settings = {**METHODS["ddad"], **(MINI if args.mini else {})}
        method = methods.get("ddad")(**{k: v for k, v in settings.items() if k != "name"})
        method.setup(engine)
        phase = method.phases(10_000)[0]
        wait = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)

        def go(first: int, n: int) -> float:
            start = time.perf_counter()
            for i in range(first, first + n):
                torch.compiler.cudagraph_mark_step_begin()
                engine.begin(i, 0.1)
                phase.step(engine)
            wait()
            return (time.perf_counter() - start) / n

        first = go(0, 3)
        groups, n = (2, 1) if args.mini else (7, 5)
        times = [go(3 + n * i, n) for i in range(groups)]
        with FlopCounterMode(display=False) as counter, engine.eagerly():
            phase.step(engine)
        median = statistics.median(times)
        flops = float(counter.get_total_flops())
        return {
            "seconds": median, "all": times, "warm_up": 3 * first, "flops": flops, "flops_per_second": flops / median,
            "memory": torch.cuda.max_memory_allocated() if args.device == "cuda" else None,
            "student_steps": method.student_steps, "batch": method.batch_size,
        }  # fmt: skip
    finally:
        torch.compile = plain  # type: ignore[assignment]


def teach(args: argparse.Namespace, k: str) -> dict[str, Any]:
    """A teacher on CIFAR (digits in the rehearsal), kept as a run folder."""
    from dreamstill import train

    run = args.out / f"run_teacher{k}"
    settings: dict[str, Any] = {"batch_size": 256, "lr": 0.2, "precision": "bf16", "compile": "on", "evaluations": 4}
    settings |= {"data": "cifar" + k, "data_root": args.data_root, "epochs": args.epochs}
    if args.mini:
        settings |= {
            "data": "digits",
            "data_root": None,
            "epochs": 2,
            "batch_size": 64,
            "precision": "32",
            "compile": "off",
        }
    train("wrn_16_1" if args.mini else "wrn_40_2", device=args.device, out=str(run), resume=run.exists(), **settings)
    return ended(run)


def distil(args: argparse.Namespace, method: str, k: str) -> dict[str, Any]:
    """A whole run of one method."""
    from dreamstill import distill

    run = args.out / f"run_{method}{k}"
    settings: dict[str, Any] = {**METHODS[method], **(MINI if args.mini else {})}
    if args.mini and method == "random_generator":
        settings = {"name": method, "batch_size": 16}
    data = {"data": "digits"} if args.mini else {"data": "cifar" + k, "data_root": args.data_root}
    teacher = str(args.out / f"run_teacher{k}")
    distill(
        student="wrn_16_1", teacher_checkpoint=teacher, method=settings,
        steps=24 if args.mini else args.steps, device=args.device, precision="32" if args.mini else "bf16",
        compile="off" if args.mini else "on", evaluations=4, onnx=False, out=str(run), resume=run.exists(), **data,
    )  # fmt: skip
    return ended(run)


def ended(run: Path) -> dict[str, Any]:
    """What a finished run says of itself."""
    summary = json.loads((run / "summary.json").read_text())
    return {"summary": summary, "config": (run / "config.yaml").read_text()}


if __name__ == "__main__":
    main()
