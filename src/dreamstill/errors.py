"""The errors that a user can meet. Each has a short message and an exit code."""

from __future__ import annotations

import ast
import difflib
import re
import traceback
from collections.abc import Collection
from pathlib import Path


class DreamstillError(Exception):
    """Base of the errors that are shown as a short message, without a traceback."""

    exit_code = 1


class InputError(DreamstillError):
    """The user's input cannot be used. The message says what was given, what was expected and what to do."""

    exit_code = 2


class DivergedError(DreamstillError):
    """A loss term or a weight became NaN or infinite. The last good checkpoint is kept."""

    exit_code = 3


class Stopped(DreamstillError):
    """Stopped by SIGTERM or Ctrl-C after writing a checkpoint; ``--resume`` goes on from it."""

    exit_code = 75  # EX_TEMPFAIL: try again later


def first_line(error: Exception) -> str:
    """The first line of an error, for use in a message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def user_error(error: BaseException) -> str:
    """What went wrong in the user's code, for use in a message: class, first line, and the place in their files."""
    place = ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}:{error.lineno})"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_the_users(f.filename)]
        if frames:
            place = f" ({frames[-1].filename}:{frames[-1].lineno})"
    lines = (error.msg if isinstance(error, SyntaxError) else str(error)).strip().splitlines()
    said = f": {lines[0][:200]}" if lines else ""
    return f"{type(error).__name__}{said}{place}"


def _is_the_users(file: str) -> bool:
    import sysconfig  # imported late: it reads a file of its own

    # This package, and everything installed.
    others = (str(Path(__file__).parent), *{sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib")})
    return not file.startswith("<") and not any(Path(file).is_relative_to(place) for place in others)


def one_sentence(message: str, prefix: str = "") -> str:
    """A parser's error, several lines with types and traces, as one sentence that names option, type and value.

    Args:
        message: the parser's.
        prefix: of the option on the command line, as ``method.``.
    """
    if missing := re.search(r"arguments are required: ([\w.]+)", message):
        return f"the {missing[1].rpartition('.')[2]} is missing: it is the first word after the command"
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    key = re.search(r'Parser key "([^"]+)"', message)
    kinds = [_kind(e) for e in re.findall(r"Expected (?:an? )?(<class '\w+'>|typing\.Literal\[.*?\])", message)]
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    if key and (wanted := list(dict.fromkeys(kind for kind in kinds if kind))):
        got = f", got {given[1]!r}" if given else ""
        return f"--{prefix}{key[1]} expects {' or '.join(wanted)}{got}"
    if key and len(lines) > 1:
        return f"--{prefix}{key[1]}: {' '.join(lines[1:])}"
    return " ".join(lines)


def _kind(text: str) -> str:
    """A type in words; nothing for None, which is what is there when nothing is given."""
    if text.startswith("typing.Literal"):
        choices = [str(c) for c in ast.literal_eval(text.removeprefix("typing.Literal"))]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": ""}
    names |= {"list": "a list, as [0.5,0.5,0.5]", "dict": "a mapping, as {width: 0.5}", "str": "a text"}
    return names.get(text.split("'")[1], text)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """``did you mean X?`` for the names near a word; nothing where none is near."""
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""
