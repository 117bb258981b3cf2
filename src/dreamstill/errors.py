"""The errors that a user can meet. Each has a short message and an exit code."""

from __future__ import annotations

import traceback
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
