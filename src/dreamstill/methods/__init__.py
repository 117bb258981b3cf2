"""Published methods: one file each, found by its name. Controls keep the same contract in ``controls``.

What methods are made of is in ``parts``, which holds no methods. What only a released code or a port does is in
``released``: a subclass in a module of the same name, found by the settings (:meth:`Method.variant_of`).

A method is a dataclass of its hyper-parameters that subclasses :class:`Method`, which says all that a run asks
of it. To add one, add a file here: nothing else names it. One of another package is ``package.module:Class``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dreamstill.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from dreamstill.data.bank import ImageBank
    from dreamstill.data.collected import Ranking
    from dreamstill.engine import Engine
    from dreamstill.engine.schedules import Schedule
    from dreamstill.networks.network import Network


Shows = Literal["fresh", "stored", "real"]


@dataclass
class Phase:
    """A stretch of the run: ``step`` is called ``iterations`` times; schedules follow the phase's own progress.

    ``schedules``: of the learning rates in this phase, by the names under which networks were owned; the schedule
    that :meth:`dreamstill.engine.Engine.own` was given holds for the others.
    """

    name: str
    iterations: int
    step: Callable[[Engine], None]
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    alike: bool = False  # every iteration has as many operations as the first, so only that one is counted


class Method:
    """What a run asks of a method. Subclass it as a dataclass whose fields are the hyper-parameters.

    A subclass has to give ``setup``, ``phases``, ``deliver`` and ``synthesise``, and to own a network called
    ``"student"``; everything else here has a default. Class attributes say what is needed and known. They are not
    hyper-parameters.
    """

    paper: ClassVar[str] = ""  # the citation
    # Of: bn, input_gradient, linear_head, sides, doublings, real, collected, transfer.
    needs: ClassVar[frozenset[str]] = frozenset()
    spares: ClassVar[Mapping[str, str]] = {}  # the settings, in words, with which a need falls away
    # What paper or released code has where a default is ours: ``--preset paper``.
    paper_settings: ClassVar[Mapping[str, Any]] = {}
    outside: ClassVar[tuple[str, ...]] = ()  # outside information used besides the teacher's weights
    tasks: ClassVar[frozenset[str]] = frozenset({"classification"})
    control: ClassVar[bool] = False  # a yardstick, which is never advised
    shows: ClassVar[Shows] = "fresh"  # what ``synthesise`` gives
    # Settings whose other values a subclass in ``released`` carries out, each with the value that this class does.
    kept_apart: ClassVar[Mapping[str, Any]] = {}
    ranking: Ranking | None = None  # of the collected images, where ``setup`` chose some of them

    @classmethod
    def variant_of(cls, settings: Mapping[str, Any]) -> type[Any]:
        """The class that these settings ask for: this one, or the one in ``released`` (see ``kept_apart``)."""
        if all(settings.get(name, value) == value for name, value in cls.kept_apart.items()):
            return cls
        own = next(c for c in cls.__mro__ if "kept_apart" in vars(c))
        found = _method_in(f"dreamstill.methods.released.{own.__module__.rsplit('.', 1)[-1]}")
        return cls if issubclass(cls, found) else found

    @property
    def needed(self) -> frozenset[str]:
        """What these settings need of the teacher, where that is less than ``needs``."""
        return self.needs

    @property
    def outside_used(self) -> tuple[str, ...]:
        """The outside information that these settings use, where that is not ``outside``."""
        return self.outside

    @property
    def images_a_step(self) -> int:
        """The batch of a student step: its ``batch_size``, if it has one."""
        return int(vars(self).get("batch_size", 128))

    @property
    def reads_labels(self) -> bool:
        """Whether these settings learn from the labels of real images."""
        return False

    def check(self, task: str) -> None:
        """Refuse settings that contradict each other, before anything is built.

        Args:
            task: ``classification`` or ``segmentation``.

        Raises:
            InputError: they do; says which and what to do.
        """

    def setup(self, engine: Engine) -> None:
        """Build and own every network, optimiser, bank and buffer, all through the engine."""
        raise NotImplementedError

    def phases(self, steps: int) -> list[Phase]:
        """Cut a budget of ``steps`` student optimiser steps into phases. The last is the student's."""
        raise NotImplementedError

    def deliver(self) -> Network:
        """The live student as one self-contained network."""
        raise NotImplementedError

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """About ``n`` images as the student now sees them (``n c h w``, [0, 1]), to look at and to count."""
        raise NotImplementedError

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor] | None:
        """A batch of a conditional generator in eval mode and the labels asked for; None without such a generator."""
        return None

    def transfer_set(self) -> ImageBank | None:
        """The images of a method that makes them once and keeps them."""
        return None

    def facts(self) -> dict[str, Any]:
        """What else belongs into a run's ``summary.json``."""
        return {}


def names() -> dict[str, str]:
    """All methods and controls: name to the package that holds it."""
    found = {}
    for package in ("dreamstill.methods", "dreamstill.methods.controls"):
        path = importlib.import_module(package).__path__
        modules = [m.name for m in pkgutil.iter_modules(path) if not m.ispkg and not m.name.startswith("_")]
        found.update(dict.fromkeys(modules, package))
    return found


def get(name: str) -> type[Any]:
    """The class of a method or control by its name, or of anybody's own by ``package.module:Class``.

    Raises:
        InputError: there is none, or what is there is no method.
    """
    if ":" in name:
        return _foreign(name)
    known = names()
    if name not in known:
        hint = f"{did_you_mean(name, [*known, 'auto'])} ".lstrip()
        raise InputError(f"there is no method {name!r}: {hint}choose one of {', '.join(sorted(known))}")
    return _method_in(f"{known[name]}.{name}")


def _method_in(name: str) -> type[Any]:
    module = importlib.import_module(name)
    classes = [c for _, c in inspect.getmembers(module, _is_method) if c.__module__ == module.__name__]
    if len(classes) != 1:
        found = ", ".join(c.__name__ for c in classes) or "none"
        raise InputError(f"{module.__name__} must define exactly one dataclass that subclasses Method; found {found}")
    return classes[0]


def _foreign(name: str) -> type[Any]:
    from dreamstill.networks.factories import found as imported

    found = imported(name)
    if not _is_method(found):
        raise InputError(f"{name} is no method: expected a dataclass that subclasses dreamstill.methods.Method")
    required = ("setup", "phases", "deliver", "synthesise")
    if absent := [step for step in required if getattr(found, step) is getattr(Method, step)]:
        raise InputError(f"the method {name} has no {', '.join(absent)}: write what dreamstill.methods.Method asks for")
    return found


def _is_method(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Method) and found is not Method and is_dataclass(found)


def check_contract(method: Method, engine: Engine, steps: int) -> None:
    """Make sure, right after ``setup`` and before anything is written, that the run can be carried to its end.

    Raises:
        InputError: the method breaks a rule of :class:`Method`; says which.
    """
    from dreamstill.networks.network import Network

    who = type(method).__name__
    if (meant := type(method).variant_of(vars(method))) is not type(method):
        raise InputError(f"the settings of the method {who} ask for {meant.__name__}: make it of that class")
    if "student" not in engine.owned:
        raise InputError(
            f"the method {who} owns {', '.join(engine.owned) or 'nothing'} and no network called 'student': take the "
            "student by engine.own('student', ...) in setup"
        )
    if not isinstance(delivered := method.deliver(), Network):
        raise InputError(f"deliver() of the method {who} returns a {type(delivered).__name__}: it must be a Network")
    phases = method.phases(steps)
    if not phases or any(phase.iterations < 1 for phase in phases):
        lengths = ", ".join(f"{phase.name} of {phase.iterations}" for phase in phases) or "none"
        raise InputError(f"phases({steps}) of the method {who} gives {lengths}: each needs an iteration at least")
    for phase in phases:
        if unknown := set(phase.schedules) - set(engine.owned):
            raise InputError(
                f"the phase {phase.name} of the method {who} has a schedule for {', '.join(sorted(unknown))}, and "
                f"owned are {', '.join(engine.owned)}"
            )
