"""``--help``: the options of a command in groups, with examples, made from its signature and docstring."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from dreamstill.methods import get, names

# Of the commands with many options; those of others stand in one list.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "distill": {
        "teacher": (
            "teacher", "teacher_checkpoint", "teacher_args", "num_classes", "image_size", "channels", "mean", "std",
            "checkpoint_key", "checkpoint_prefix",
        ),
        "student": (
            "student", "student_checkpoint", "student_args", "target_params", "target_flops", "target_latency",
        ),
        "method": ("method", "preset"),
        "budget": ("minutes", "steps", "dry_run"),
        "data": ("data", "split", "set_size", "data_root", "collected", "transfer", "real"),
        "output": ("out", "resume", "onnx", "quiet"),
        "advanced": (
            "seed", "device", "precision", "compile", "threads", "evaluations", "checkpoint_seconds",
            "checkpoint_steps", "trust_code", "unsafe_load",
        ),
    },
    "train": {
        "network": ("network", "network_args", "image_size", "channels"),
        "data": ("data", "split", "data_root", "set_size", "limit"),
        "budget": ("epochs", "batch_size"),
        "optimiser": ("lr", "weight_decay", "momentum", "warmup", "label_smoothing", "class_weights"),
        "augmentation": ("crop", "flip", "scale", "relight"),
        "output": ("out", "resume", "quiet"),
        "advanced": ("seed", "device", "precision", "compile", "evaluations", "checkpoint_seconds"),
    },
    "evaluate": {
        "network": ("run", "student"),
        "images": ("data", "images", "split", "set_size", "data_root", "limit"),
        "teacher": ("teacher", "teacher_checkpoint"),
        "advanced": ("trust_code", "unsafe_load"),
    },
}  # fmt: skip

EXAMPLES: dict[str, tuple[str, ...]] = {
    "distill": (
        "dreamstill distill --teacher timm:resnet18.a1_in1k --student auto --target-params 1M --minutes 60",
        "dreamstill distill --teacher ./my_nets.py:Net --teacher-checkpoint net.pt --num-classes 10 --image-size 32 "
        "--mean 0.5 --std 0.25 --student wrn_16_1 --minutes 10 --out runs/mine",
    ),
    "train": (
        "dreamstill train convnet --data digits --out runs/teacher",
        "dreamstill train wrn_16_2 --data photographs/ --image-size 32 --epochs 60",
    ),
    "evaluate": (
        "dreamstill evaluate runs/mine --data labelled/",
        "dreamstill evaluate runs/mine --images photographs/",
    ),
    "doctor": (
        "dreamstill doctor timm:resnet18.a1_in1k",
        "dreamstill doctor ./my_nets.py:Net --checkpoint net.pt --num-classes 10 --image-size 32 --mean 0.5 --std 0.25",
    ),
    "compare": ("dreamstill compare runs/a runs/b", "dreamstill compare runs/fast-00* --out comparison.html"),
    "synthesize": ("dreamstill synthesize runs/mine --n 5000 --out images.parquet", "dreamstill synthesize runs/mine"),
    "methods": ("dreamstill methods", "dreamstill methods ddad"),
}
_METHOD_HINT = "dreamstill distill --method NAME --help shows a method's own settings. There are {names}."


def overview(commands: Mapping[str, tuple[Callable[..., Any], str | None]]) -> str:
    """What ``dreamstill --help`` says."""
    lines = ["usage: dreamstill COMMAND [options]", ""]
    lines += ["Data-free knowledge distillation: a trained network in, a small student out, no data.", "", "commands"]
    for name, (function, _) in commands.items():
        lines += _entry(f"  {name}", inspect.getdoc(function).split("\n")[0])  # type: ignore[union-attr]
    return "\n".join([*lines, "", "dreamstill COMMAND --help explains one of them; dreamstill --version."])


def help_text(command: str, function: Callable[..., Any], first: str | None, method: str | None = None) -> str:
    """What ``dreamstill COMMAND --help`` says; with a method's name its settings too."""
    text, _, arguments = inspect.getdoc(function).partition("\nArgs:\n")  # type: ignore[union-attr]
    said = [p for p in text.strip().split("\n\n") if not p.startswith("In Python")]
    place = f"{first.upper().removesuffix('S')}{'...' if first.endswith('s') else ''} " if first else ""
    lines = [f"usage: dreamstill {command} {place}[options]"]
    for paragraph in said:
        lines += ["", *textwrap.wrap(_plain(paragraph), _width())]
    meanings, parameters = dict(_arguments(arguments)), inspect.signature(function).parameters
    choices = vars(inspect.getmodule(function))
    groups = GROUPS.get(command) or {"options": tuple(parameters)}
    for group, members in groups.items():
        lines += ["", group]
        for name in members:
            shown = first.upper() if name == first and first else _option(name, parameters[name].annotation, choices)
            lines += _entry(f"  {shown}", meanings[name] + _default(parameters[name]))
        if group == "method":
            lines += _method_settings(method)
    if "method" in parameters:
        lines += ["", "recipe", *_entry("  --config FILE", "these options as YAML; options after it win.")]
    if command in EXAMPLES:
        lines += ["", "examples", *(f"  {example}" for example in EXAMPLES[command])]
    return "\n".join(lines)


def _width() -> int:
    return min(shutil.get_terminal_size((100, 20)).columns, 110)


def _entry(option: str, text: str) -> list[str]:
    """An option and what it means, the latter in a column of its own."""
    column = 30
    lines = textwrap.wrap(text, max(_width() - column, 30), break_on_hyphens=False) or [""]
    if len(option) > column - 2:
        return [option, *(" " * column + line for line in lines)]
    return [f"{option:<{column}}{lines[0]}", *(" " * column + line for line in lines[1:])]


def _option(name: str, kind: str, choices: Mapping[str, Any]) -> str:
    """An option as it is typed, with what follows it."""
    flag = "--" + name.replace("_", "-")
    if kind.startswith("bool"):
        return flag if name not in ("onnx", "flip", "growth") else f"{flag}, --no-{name}"
    plain = kind.removesuffix(" | None")
    if allowed := get_args(choices.get(plain)):
        return f"{flag} {'|'.join(allowed)}"
    values = {
        "int": "N", "float": "X", "int | list[int]": "N|HxW", "list[float] | float": "X|X,X,X", "list[int]": "N,N",
        "float | str": "X", "list[str]": "NAME,NAME", "dict[str, Any]": "{KEY: VALUE}",
    }  # fmt: skip
    return f"{flag} {values.get(plain, name.split('_')[-1].upper())}"


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value in (None, False, inspect.Parameter.empty) or value is True:
        return ""
    return f" (default {value:g})" if isinstance(value, float) else f" (default {value})"


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    """Name and meaning of each argument in the last part of a docstring, without what is for Python alone."""
    for block in re.split(r"\n(?= {4}\w)", "\n" + text.rstrip()):
        if not block.strip():
            continue
        name, _, meaning = " ".join(block.split()).partition(": ")
        sentences = re.split(r"(?<=\.) (?=[A-Z])", meaning)
        yield name, _plain(" ".join(s for s in sentences if not s.startswith("In Python")))


def _plain(text: str) -> str:
    """Without the marks of the documentation's language."""
    return re.sub(r":\w+:`[\w.]*?(\w+)`|``", r"\1", " ".join(text.split()))


def _method_settings(name: str | None) -> list[str]:
    """The settings of one method, or how to see them. Only the former imports torch."""
    if name in (None, "auto"):
        return _entry("", _METHOD_HINT.format(names=", ".join(sorted(names()))))
    from dreamstill.commands.methods import settings_of

    cls = get(str(name))
    lines = ["", f"settings of the method {name} ({cls.paper})"]
    for setting in settings_of(cls):
        about = f" (default {setting.default}; {setting.range})"
        lines += _entry(f"  --method.{setting.name.replace('_', '-')}", _plain(setting.meaning) + about)
    return lines
