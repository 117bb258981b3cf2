"""Published methods: one file each, found by its name. Controls keep the same contract in ``controls``.

What several methods share is in ``parts``, which holds no methods.

A method is a dataclass of its hyper-parameters with three functions and one more to look at its images
(:class:`Method`). To add one, add a file here: nothing else names it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from dreamstill.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from dreamstill.engine import Engine
    from dreamstill.networks.network import Network


@dataclass
class Phase:
    """A stretch of the run: ``step`` is called ``iterations`` times; schedules follow the phase's own progress."""

    name: str
    iterations: int
    step: Callable[[Engine], None]


@runtime_checkable
class Method(Protocol):
    """What the loop needs. Class attributes say what is needed and known; they are not hyper-parameters.

    More may be there: ``needed``, a property, what these settings need where that is less than ``needs``;
    ``transfer_set()``, the image bank of a method that makes its images once and keeps them; ``preset(engine)``, of a
    method with a conditional generator: a batch of its images in eval mode and the labels asked for (None without);
    ``ranking``, the order of collected images; ``shows``, what ``synthesise`` gives where it is not fresh images:
    ``stored`` ones that the student learnt from, or ``real`` ones; and ``facts()``, what else belongs into a run's
    ``summary.json``.
    """

    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]]  # of: bn, input_gradient, linear_head, sides, doublings, real, collected, transfer
    outside: ClassVar[tuple[str, ...]]  # outside information used besides the teacher's weights
    tasks: ClassVar[frozenset[str]]

    def setup(self, engine: Engine) -> None:
        """Build and own every network, optimiser, bank and buffer, all through the engine."""

    def phases(self, steps: int) -> list[Phase]:
        """Cut a budget of ``steps`` student optimiser steps into phases."""

    def deliver(self) -> Network:
        """The live student as one self-contained network."""

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """About ``n`` images as the student now sees them (``n c h w``, [0, 1]), to look at and to count."""


def names() -> dict[str, str]:
    """All methods and controls: name to the package that holds it."""
    found = {}
    for package in ("dreamstill.methods", "dreamstill.methods.controls"):
        path = importlib.import_module(package).__path__
        modules = [m.name for m in pkgutil.iter_modules(path) if not m.ispkg and not m.name.startswith("_")]
        found.update(dict.fromkeys(modules, package))
    return found


def get(name: str) -> type[Any]:
    """The class of a method or control by its name, or of anybody's own by ``package.module:Class``."""
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"method {name!r} could not be imported ({error}): give package.module:Class") from error
        if not is_dataclass(found) or not isinstance(found, type) or not hasattr(found, "phases"):
            raise InputError(f"{name} is no method: expected a dataclass with setup, phases, deliver and synthesise")
        return found
    known = names()
    if name not in known:
        raise InputError(f"there is no method {name!r}: choose one of {', '.join(sorted(known))}")
    module = importlib.import_module(f"{known[name]}.{name}")
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    methods = [c for c in classes if hasattr(c, "phases") and hasattr(c, "setup")]
    assert len(methods) == 1, f"{module.__name__} must define exactly one method, found {methods}"
    return methods[0]
