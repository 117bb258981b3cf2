"""The command line: the functions of :mod:`dreamstill.api` as commands, with recipes as their arguments in YAML."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from dreamstill import api
from dreamstill.commands import typed
from dreamstill.commands.helptext import help_text, overview
from dreamstill.errors import DreamstillError, InputError, one_sentence
from dreamstill.messages import to_terminal
from dreamstill.runs.config_file import read_settings
from dreamstill.runs.settings import DistillSettings, TrainSettings

# Command, function, and the argument that may be given first without its name.
COMMANDS: dict[str, tuple[Callable[..., Any], str | None]] = {
    "distill": (api.distill, None),
    "evaluate": (api.evaluate, "run"),
    "export": (api.export, "run"),
    "compare": (api.compare, "runs"),
    "train": (api.train, "network"),
    "doctor": (api.doctor, "teacher"),
    "methods": (api.methods, "name"),
    "synthesize": (api.synthesize, "run"),
    "demo": (api.demo, None),
    "bench": (api.bench, "suite"),
    "profile": (api.profile, "recipe"),
}


def build_parser(command: str | None = None) -> ArgumentParser:
    """The parser; every argument's type comes from the function's signature.

    Args:
        command: the one whose arguments are wanted. To read those of all would take long.
    """
    parser = ArgumentParser(prog="dreamstill", exit_on_error=False)
    subcommands = parser.add_subcommands(dest="command")
    for name, (function, _) in COMMANDS.items():
        sub = ArgumentParser(exit_on_error=False)
        if name == command:
            sub.add_argument("--config", action="config", help="a recipe: these arguments as YAML; later arguments win")
            sub.add_function_arguments(function, as_group=False, fail_untyped=False)
        subcommands.add_subcommand(name, sub)
    return parser


def normalise(argv: Sequence[str]) -> list[str]:
    """What people type, as the parser wants it: see :func:`dreamstill.commands.typed.options`."""
    command, *words = argv
    typed.check_command(command, COMMANDS)
    return [command, *typed.options(command, words, *COMMANDS[command])]


def _check_recipe(words: Sequence[str]) -> None:
    """Read the recipe first: the parser's own words on a bad one are several lines, or a traceback."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == "--config":
            hint = f"give a YAML file of dreamstill {words[0]}'s arguments, as steps: 5000"
            read_settings(Path(value if equals else following), "the recipe", hint)


def _explain(argv: Sequence[str]) -> str | None:
    """The help that was asked for, if it was."""
    if not argv or argv[0] in ("--help", "-h", "help"):
        return overview(COMMANDS)
    if argv[0] not in COMMANDS or not {"--help", "-h"} & set(argv[1:]):
        return None
    words = normalise([word for word in argv if word not in ("--help", "-h")])
    names = [following for word, following in zip(words, [*words[1:], ""], strict=True) if word == "--method.name"]
    names += [word.partition("=")[2] for word in words if word.startswith("--method.name=")]
    return help_text(argv[0], *COMMANDS[argv[0]], names[-1] if names else None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code. A user's error is a short message on stderr and code 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0] in ("--version", "-V"):
        from dreamstill import __version__

        print(f"dreamstill {__version__}")
        return 0
    try:
        if (text := _explain(argv)) is not None:
            print(text)
            return 0 if argv else 2
        words = normalise(argv)
        _check_recipe(words)
        parsed = build_parser(argv[0]).parse_args(words)
    except DreamstillError as error:
        print(f"dreamstill: {error}", file=sys.stderr)
        return error.exit_code
    except ArgumentError as error:
        print(f"dreamstill: {one_sentence(str(error))} (dreamstill {argv[0]} --help explains)", file=sys.stderr)
        return 2
    # package.module:factory may lie beside the user; last, so that no file there shadows a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return _carry_out(parsed, words)
    except DreamstillError as error:
        print(f"dreamstill: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "dreamstill: interrupted; --resume --out FOLDER goes on from the last checkpoint, if any", file=sys.stderr
        )
        return 130


def _carry_out(parsed: Any, words: Sequence[str]) -> int:
    arguments = parsed[parsed.command].as_dict()
    arguments.pop("config", None)
    if sys.stderr.isatty() and "torch" not in sys.modules:  # it takes seconds
        print("loading PyTorch", file=sys.stderr, flush=True)
    if arguments.get("resume"):
        from dreamstill.runs.resume import refuse_others

        # Parsed again without defaults: what is left was typed, or stands in a recipe.
        said = build_parser(parsed.command).parse_args(words, defaults=False)[parsed.command]
        kind = DistillSettings if parsed.command == DistillSettings.command else TrainSettings
        refuse_others(kind(**arguments), [name for name in said.as_dict() if name in arguments])
    from dreamstill.engine.launch import settle_process

    settle_process()
    to_terminal()
    result = COMMANDS[parsed.command][0](**arguments)
    # For scripts: it has printed them.
    return InputError.exit_code if parsed.command == "doctor" and result["problems"] else 0
