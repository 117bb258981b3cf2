"""The errors a user can meet: each one is a sentence, and has an exit code."""

from __future__ import annotations


class DreamstillError(Exception):
    """Base of the errors that are shown as one sentence, without a traceback."""

    exit_code = 1


class InputError(DreamstillError):
    """What the user gave cannot be used: says what was given, what was expected and what to do."""

    exit_code = 2


class DivergedError(DreamstillError):
    """A loss term or a weight became NaN or infinite. The last good checkpoint is kept."""

    exit_code = 3


class Stopped(DreamstillError):
    """Stopped by SIGTERM or Ctrl-C after writing a checkpoint; ``--resume`` goes on from it."""

    exit_code = 75  # EX_TEMPFAIL: try again later


def first_line(error: Exception) -> str:
    """What an error says first, for a sentence of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
