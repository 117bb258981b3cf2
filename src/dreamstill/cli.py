"""The command line: the functions of :mod:`dreamstill.api` as commands, with recipes as their arguments in YAML."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from dreamstill import api
from dreamstill.errors import DreamstillError, InputError
from dreamstill.runs.config_file import read_settings
from dreamstill.runs.settings import DistillSettings, TrainSettings, one_sentence

# Command, function, and the argument that may be given first without its name.
COMMANDS: dict[str, tuple[Callable[..., Any], str | None]] = {
    "distill": (api.distill, None),
    "evaluate": (api.evaluate, "run"),
    "train": (api.train, "network"),
    "doctor": (api.doctor, "teacher"),
    "methods": (api.methods, "name"),
    "synthesize": (api.synthesize, "run"),
    "demo": (api.demo, None),
    "bench": (api.bench, "suite"),
    "profile": (api.profile, "recipe"),
}


class Parser(ArgumentParser):
    """Shows options with hyphens; both spellings are taken."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The help text."""
        return re.sub(r"--[a-z][\w.]*", lambda m: m[0].replace("_", "-"), super().format_help(*args, **kwargs))


def build_parser(command: str | None = None) -> ArgumentParser:
    """The parser; every argument's type and help come from the function's signature and docstring.

    Args:
        command: the one whose arguments are wanted. To read those of all would take longer than anything else that
            ``--help`` does.
    """
    parser = Parser(
        prog="dreamstill",
        exit_on_error=False,
        description="Data-free knowledge distillation: a trained network in, a small student out, no data.",
    )
    subcommands = parser.add_subcommands(dest="command", title="commands", metavar="COMMAND")
    for name, (function, first) in COMMANDS.items():
        text = (function.__doc__ or "").split("Args:")[0].strip()
        usage = f"dreamstill {name} {first.upper() + ' ' if first else ''}[options]"
        sub = Parser(exit_on_error=False, usage=usage, description=re.sub(r":class:`[\w.]*\.(\w+)`|``", r"\1", text))
        if name == command:
            sub.add_argument("--config", action="config", help="a recipe: these arguments as YAML; later arguments win")
            sub.add_function_arguments(function, as_group=False, fail_untyped=False)
        subcommands.add_subcommand(name, sub, help=text.split("\n")[0])
    return parser


def normalise(argv: Sequence[str]) -> list[str]:
    """What people type, as the parser wants it.

    Hyphens in option names; the first argument without its name; ``--method ddad`` as ``--method.name ddad`` so that
    hyper-parameters can follow it (``--method '{name: ddad, ...}'`` has them already); switches without a value, and
    ``--no-X``.
    """
    command, *words = argv
    if command not in COMMANDS:
        return list(argv)
    function, first = COMMANDS[command]
    kinds = {k: str(p.annotation) for k, p in inspect.signature(function).parameters.items()}
    switches = {k for k, kind in kinds.items() if kind.startswith("bool")}
    if first and words and not words[0].startswith("-"):
        words = [f"--{first}", *words]
    out = [command]
    for i, word in enumerate(words):
        if not word.startswith("--"):
            out.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name.removeprefix("no_") in switches and not equals:
            following = words[i + 1].lower() if i + 1 < len(words) else ""
            if name.startswith("no_"):
                name, equals, value = name.removeprefix("no_"), "=", "false"
            elif following not in ("true", "false", "yes", "no"):
                equals, value = "=", "true"
        given = value if equals else "".join(words[i + 1 : i + 2])
        if name == "method" and not given.lstrip().startswith("{"):
            name = "method.name"
        out.append("--" + name + equals + value)
    options = [word.partition("=")[0] for word in out]
    if any(o.startswith("--method.") for o in options) and not {"--method", "--method.name", "--config"} & set(options):
        out.append("--method.name=" + inspect.signature(function).parameters["method"].default)
    return out


def _check_recipe(words: Sequence[str]) -> None:
    """Read the recipe first: the parser's own words on a bad one are several lines, or a traceback."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == "--config":
            hint = f"give a YAML file of dreamstill {words[0]}'s arguments, as steps: 5000"
            read_settings(Path(value if equals else following), "the recipe", hint)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code. A user's error is a short message on stderr and code 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv:
        build_parser().print_help()
        return 2
    if argv[0] in ("--version", "-V"):
        from dreamstill import __version__

        print(f"dreamstill {__version__}")
        return 0
    try:
        words = normalise(argv)
        _check_recipe(words)
        parsed = build_parser(argv[0]).parse_args(words)
    except DreamstillError as error:
        print(f"dreamstill: {error}", file=sys.stderr)
        return error.exit_code
    except ArgumentError as error:
        print(f"dreamstill: {one_sentence(str(error))} (dreamstill {argv[0]} --help explains)", file=sys.stderr)
        return 2
    except SystemExit as leaving:  # --help
        return int(leaving.code or 0)
    # package.module:factory may lie beside the user; last, so that no file there shadows a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    arguments = parsed[parsed.command].as_dict()
    arguments.pop("config", None)
    function = COMMANDS[parsed.command][0]
    try:
        if arguments.get("resume"):
            from dreamstill.runs.resume import refuse_others

            # Parsed again without defaults: what is left was typed, or stands in a recipe.
            typed = build_parser(argv[0]).parse_args(words, defaults=False)[parsed.command]
            kind = DistillSettings if parsed.command == DistillSettings.command else TrainSettings
            refuse_others(kind(**arguments), [name for name in typed.as_dict() if name in arguments])
        from dreamstill.engine.launch import settle_process

        settle_process()
        result = function(**arguments)
        if parsed.command == "doctor" and result["problems"]:  # for scripts: it has printed them
            return InputError.exit_code
    except DreamstillError as error:
        print(f"dreamstill: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "dreamstill: interrupted; --resume --out FOLDER goes on from the last checkpoint, if any", file=sys.stderr
        )
        return 130
    return 0
