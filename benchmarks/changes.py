"""What each change for speed brings: a DDAD iteration with all of them against one without that one, A B A B.

Every variant lives in a process of its own (some changes act on the whole process) and works only when asked, so that
two never compete. Writes the record and the tables in ``docs/speed.md``, one a record. All compute the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from step_ratio import NZ, network, put

from dreamstill.commands.profiling.steps import iterate, prepared
from dreamstill.engine import Engine, Given, Hardware, compiling, launch, ranks
from dreamstill.files import write_json
from dreamstill.methods.ddad import DDAD
from dreamstill.networks import channel_moments, generators, probes
from dreamstill.runs.machine import machine as this_machine
from dreamstill.tasks.classification import Classification

ROOT = Path(__file__).parents[1]


def unfrozen() -> None:
    """Parameters of the networks that a loss merely passes through collect gradients."""
    frozen, activate = Engine.frozen, Engine._activate

    def thawed(self: Engine, network: object, *args: object, **kwargs: object) -> object:
        cast = frozen(self, network, *args, **kwargs)  # type: ignore[arg-type]
        network.requires_grad_(True)  # type: ignore[attr-defined]
        return cast

    def all_active(self: Engine, owned: object) -> None:
        activate(self, list(self.owned.values()))

    Engine.frozen, Engine._activate = thawed, all_active  # type: ignore[method-assign,assignment]


def channels_first() -> None:
    """Weights and images in PyTorch's default memory format."""

    def place(self: Engine, module: torch.nn.Module) -> None:
        module.to(device=self.device, dtype=self.dtype)

    Engine._place = place  # type: ignore[method-assign]


def doubled_before() -> None:
    """The generator doubles its map, then convolves."""

    def forward(self: torch.nn.Conv2d, x: Tensor) -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2), self.weight, self.bias, padding=1)

    generators.UpsampleConv.forward = forward  # type: ignore[method-assign,assignment]


def plain_moments() -> None:
    """``torch.var_mean`` and autograd in place of one pass each way."""

    def by_library(x: Tensor, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        return mean, var

    probes.moments = ranks.moments = by_library  # type: ignore[attr-defined]


def freed_memory_returned() -> None:
    """The C library's defaults: large blocks go back to the system when freed."""
    launch.keep_freed_memory = lambda: False


def plain_optimisers() -> None:
    """One parameter after the other, several operations each."""

    def loops(cls: type[torch.optim.Optimizer]) -> None:
        init = cls.__init__

        def plain(self: torch.optim.Optimizer, params: object, **kwargs: object) -> None:
            kwargs.pop("fused", None)
            init(self, params, **kwargs, foreach=False)  # type: ignore[call-arg,arg-type]

        cls.__init__ = plain  # type: ignore[method-assign,assignment]

    loops(torch.optim.Adam)
    loops(torch.optim.SGD)


def library_batch_norm() -> None:
    """Compiled steps with what the compiler makes of the library's batch norm."""
    compiling.LeanBatchNorm = contextlib.nullcontext  # type: ignore[misc,assignment]


def by_channel() -> None:
    """Compiled steps whose inner loop goes over an image's channels."""
    channel_moments.in_rows = lambda x: False


# Name, what was expected before measuring, and how to take it away again.
CHANGES: dict[str, tuple[str, Callable[[], None]]] = {
    "frozen networks": ("a sixth of the generator step: no weight gradients of T and S", unfrozen),
    "channels_last": ("no re-ordering around each convolution", channels_first),
    "doubling inside the convolution": ("4/9 of the generator's operations", doubled_before),
    "one-pass batch-norm statistics": ("2 passes over T's activations in place of about 6", plain_moments),
    "freed memory kept": ("no page faults: each large block is touched for the first time once", freed_memory_returned),
    "fused optimisers": ("about 1 % here: few parameters", plain_optimisers),
}
# The same for what only compiled steps have.
COMPILED: dict[str, tuple[str, Callable[[], None]]] = {
    "batch norm from two sums": ("no root and no division a pixel", library_batch_norm),
    "images in rows": ("tanh and scales of images on all lanes of a register, not on three of sixteen", by_channel),
}


def serve(connection: Connection, without: str, options: argparse.Namespace) -> None:
    """Iterations on request, without one of the changes."""
    _, take_away = {**CHANGES, **COMPILED}.get(without, ("", lambda: None))
    take_away()
    launch.settle_process()
    method = DDAD(batch_size=options.batch, nz=NZ, width=options.width)
    compile = without == "(compiled)" or without in COMPILED
    engine = prepared(
        method,
        Given(network(options.teacher), network(options.student), task=Classification()),
        Hardware("cpu", options.precision, compile),
        compile=compile,
    )
    done = 2
    iterate(engine, method, done)
    connection.send("ready")
    while connection.recv():
        connection.send(iterate(engine, method, 1, done)[0])
        done += 1


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in ("(all)", *CHANGES, *COMPILED, "(compiled)"):
        ask, answer = context.Pipe()
        context.Process(target=serve, args=(answer, name, options), daemon=True).start()
        ask.recv()  # one after the other: nothing is measured while another compiles or warms up
        pipes[name] = ask
    times: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(options.rounds):
        for name in [n for n in pipes if n != "(all)"]:
            for turn in ("(all)", name):
                pipes[turn].send(True)
                times[turn].append(pipes[turn].recv())
                time.sleep(0.05)
    for pipe in pipes.values():
        pipe.send(False)
    return times


def table(times: dict[str, list[float]]) -> str:
    """Markdown."""
    base = statistics.median(times["(all)"])
    lines = ["| change | expected | iteration without it | with all | factor |", "|---|---|---|---|---|"]
    for name, (expected, _) in CHANGES.items():
        without = statistics.median(times[name])
        lines.append(f"| {name} | {expected} | {without:.2f} s | {base:.2f} s | {without / base:.2f} |")
    compiled = statistics.median(times["(compiled)"])
    lines.append(f"| compiled steps, on top | fewer passes between convolutions | {base:.2f} s | {compiled:.2f} s | "
                 f"{base / compiled:.2f} |")  # fmt: skip
    for name, (expected, _) in COMPILED.items():
        if name in times:
            without = statistics.median(times[name])
            lines.append(f"| of that, {name} | {expected} | {without:.2f} s | {compiled:.2f} s | "
                         f"{without / compiled:.2f} |")  # fmt: skip
    return "\n".join(lines)


def tables() -> str:
    """Of all records, each under a line that says what it is of."""
    parts = []
    for path in sorted((ROOT / "benchmarks" / "records" / "changes").glob("*.json")):
        found = json.loads(path.read_text())
        options, machine = found["options"], found["machine"]
        numbers = {"32": "float32"}.get(options.get("precision", "32"), options.get("precision"))
        parts.append(
            f"{numbers}, generator width {options['width']}, {machine['cpu']}, {machine['threads']} threads:\n"
        )
        parts.append(table(found["seconds"]) + "\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="wrn_16_2")
    parser.add_argument("--student", default="wrn_16_1")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    options = parser.parse_args()
    times = measure(options)
    stem = f"{options.teacher}-width{options.width}-{options.precision}"
    record = {"machine": this_machine(), "options": vars(options), "seconds": times}
    write_json(ROOT / "benchmarks" / "records" / "changes" / f"{stem}.json", record)
    put(ROOT / "docs" / "speed.md", "changes", tables())
    print(table(times))


if __name__ == "__main__":
    main()
