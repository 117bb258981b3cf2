"""What dreamstill says while it works: records of the logger ``dreamstill``, which the command line shows.

In Python nothing but warnings is shown unless the caller asks for more: ``logging.basicConfig(level="INFO")`` shows all
that the command line would.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_log = logging.getLogger("dreamstill")


def say(text: str, *, warning: bool = False, aside: bool = False) -> None:
    """Say a line, or some.

    Args:
        text: what is said.
        warning: whether something looks wrong: a library's caller sees it without having asked.
        aside: whether the command line shows it on stderr, because what it has on stdout may be read by a program.
    """
    _log.log(logging.WARNING if warning else logging.INFO, "%s", text, extra={"aside": aside})


def show(*things: RenderableType, markup: bool = True) -> None:
    """Say tables and styled lines; coloured where the command line writes to a terminal.

    Args:
        things: what rich prints.
        markup: whether texts hold rich's styles in brackets.
    """
    from rich.console import Console  # not above: the help needs none of it

    console = Console(highlight=False, force_terminal=None if _on_the_command_line() else False)
    with console.capture() as captured:
        for thing in things:
            console.print(thing, markup=markup)
    say(captured.get().rstrip("\n"))


class _Terminal(logging.Handler):
    """Bare lines on stdout, asides on stderr. The streams are looked up anew: they may have been replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        print(record.getMessage(), file=sys.stderr if getattr(record, "aside", False) else sys.stdout, flush=True)


def to_terminal() -> None:
    """Show all that is said, as the command line does. A second call changes nothing."""
    if not _on_the_command_line():
        _log.addHandler(_Terminal())
        _log.setLevel(logging.INFO)
        _log.propagate = False


def _on_the_command_line() -> bool:
    return any(isinstance(handler, _Terminal) for handler in _log.handlers)
