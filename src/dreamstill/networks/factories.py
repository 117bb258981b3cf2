"""Networks that the user's own code makes: ``package.module:factory``, or ``./file.py:factory``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dreamstill.errors import InputError, user_error


def made(name: str, kwargs: dict[str, Any], num_classes: int) -> nn.Module:
    """The network that a factory makes.

    Args:
        name: a module or the path of a ``.py`` file, a colon, and a class or function in it. A dot reaches into a
            class (``transformers:AutoModel.from_pretrained``).
        kwargs: its arguments.
        num_classes: passed on if the factory takes it, by name or in ``**kwargs``.

    Raises:
        InputError: it cannot be imported or called, raises, or returns something else.
    """
    factory = found(name)
    if not callable(factory):
        raise InputError(f"{name} is a {type(factory).__name__}: expected a class or function that makes a network")
    built = _called(name, factory, kwargs, num_classes)
    if not isinstance(built, nn.Module):
        raise InputError(f"{name} returned {type(built).__name__}: expected a torch.nn.Module")
    return built


# ---------------------------------------------------------------- importing


def found(name: str) -> Any:
    """The class or function that a name stands for.

    Raises:
        InputError: nothing has this name, or importing its module fails.
    """
    module_name, _, inside = name.rpartition(":")
    module = _imported(module_name, name)
    value: Any = module
    for part in inside.split("."):
        try:
            value = getattr(value, part)
        except Exception as error:  # a module may compute its attributes on access
            close = difflib.get_close_matches(part, [n for n in dir(value) if not n.startswith("_")], n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "give package.module:factory"
            raise InputError(f"{name} could not be imported ({user_error(error)}): {hint}") from error
    return value


def _imported(module_name: str, name: str) -> ModuleType:
    path = Path(module_name)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"{name} could not be imported (there is no file {path}): give package.module:factory")
        return _from_file(path, name)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises; a script may exit
        if isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]:
            raise InputError(
                f"{name} could not be imported ({error}): give package.module:factory, or the path of a file as "
                "./file.py:factory"
            ) from error
        if isinstance(error, ValueError | TypeError) and not module_name.strip("."):  # ":f"
            raise InputError(f"{name} could not be imported ({error}): give package.module:factory") from error
        raise InputError(
            f"{name} could not be imported because its module raises {user_error(error)}. Mend the module, or run "
            f"python -c 'import {module_name}' to see more"
        ) from error


def _from_file(path: Path, name: str) -> ModuleType:
    """Import a file as a module. Like a script, it can import the files next to it."""
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    known = sys.modules.get(path.stem)
    # Pickled objects look for a module by its own name, so it gets that name unless another module has it.
    label = path.stem if known is None or known.__file__ == str(path) else f"{path.stem} of {path.parent}"
    if (same := sys.modules.get(label)) is not None:
        return same
    spec = importlib.util.spec_from_file_location(label, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        del sys.modules[label]
        raise InputError(
            f"{name} could not be imported because its file raises {user_error(error)}. Mend the file, or run it with "
            "python to see more"
        ) from error
    return module


# ---------------------------------------------------------------- calling


def _called(name: str, factory: Any, kwargs: dict[str, Any], num_classes: int) -> Any:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # built-in code does not say what it takes
        signature = None
    accepted = {} if signature is None else signature.parameters
    more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    extra = {"num_classes": num_classes} if "num_classes" in accepted and "num_classes" not in kwargs else {}
    if signature is not None:
        try:
            signature.bind(**kwargs, **extra)
        except TypeError as error:
            raise InputError(f"{name} could not be called with {kwargs or 'no arguments'}: {error}") from error
    if more and not extra and "num_classes" not in kwargs:
        try:
            return factory(**kwargs, num_classes=num_classes)
        except TypeError as error:  # **kwargs may be passed on to code that does not know num_classes
            if "num_classes" not in str(error):
                raise _raised(name, kwargs, error) from error
        except (Exception, SystemExit) as error:
            raise _raised(name, {**kwargs, "num_classes": num_classes}, error) from error
    try:
        return factory(**kwargs, **extra)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise _raised(name, {**kwargs, **extra}, error) from error


def _raised(name: str, kwargs: dict[str, Any], error: BaseException) -> InputError:
    return InputError(
        f"{name} raised {user_error(error)} when called with {kwargs or 'no arguments'}. Mend it, or give other "
        "arguments"
    )
