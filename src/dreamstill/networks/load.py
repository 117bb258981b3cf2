"""Checkpoints in and out: one convention for a network everywhere, and nothing is executed by loading a file."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dreamstill.errors import InputError
from dreamstill.files import atomic_write
from dreamstill.networks import builtin, reused_classifier
from dreamstill.networks.file_checks import SUM, summed, values
from dreamstill.networks.network import Network, sides
from dreamstill.networks.state_dicts import NETWORK_SCHEMA, apply_state, load_state

# What a network must know of its images.
FACTS = ("num_classes", "image_size", "channels", "mean", "std")


# ---------------------------------------------------------------- a network from a name and a checkpoint


def checkpoint_file(path: Path) -> Path:
    """The weights in a run folder, or the file itself."""
    for name in ("student.safetensors", "model.safetensors"):
        if (path / name).is_file():
            return path / name
    return path


def resolve(
    name: str | None,
    checkpoint: str | Path | None,
    *,
    kwargs: dict[str, Any] | None = None,
    num_classes: int | None = None,
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    unsafe: bool = False,
    role: str = "teacher",
) -> Network:
    """Build a network from a name, a checkpoint, or both, and what is known of its input.

    Args:
        name: a built-in name, ``package.module:factory``, or None when the checkpoint describes itself.
        checkpoint: a file or a run folder; None gives fresh weights.
        kwargs: arguments of the built-in network or factory.
        num_classes: must agree with the checkpoint's own description, as all that follow; a bare file needs it, and
            all that follow, from the user.
        image_size: side, or (height, width), in pixels.
        channels: 3 if neither the file nor the user says.
        mean: per channel, in [0, 1] units.
        std: per channel, in [0, 1] units.
        unsafe: see :func:`dreamstill.networks.state_dicts.load_state`.
        role: how the network is called in errors.
    """
    if name is not None and ":" not in name and name != reused_classifier.NAME:
        builtin.find(name)  # before what is missing: of a slip of the pen nobody needs to know the image size
    state: dict[str, Tensor] | None = None
    description: dict[str, Any] = {}
    path = None if checkpoint is None else checkpoint_file(Path(checkpoint))
    if path is not None:
        state, description = load_state(path, unsafe=unsafe)
    given = {"num_classes": num_classes, "image_size": image_size, "channels": channels, "mean": mean, "std": std}
    facts = _agree(given, description, path, role)
    if not unsafe and name in (None, description.get("name")):
        refuse_own_code(None if name else description.get("name"), path)
        refuse_own_code(
            reused_classifier.base_of(description), path
        )  # a run's own name for its teacher does not say its base
    name, kwargs = _agree_name(name, kwargs or {}, description, path, role)
    if state is not None:
        _refuse_larger(name, kwargs, facts, state, path)
    module = _construct(name, kwargs, facts)
    network = Network(module, name=name, kwargs=kwargs, **facts)
    if state is not None:
        apply_state(module, state, str(path))
    return network


def load_network(path: str | Path, module: nn.Module | None = None, *, unsafe: bool = False) -> Network:
    """A network that dreamstill wrote (a run folder or its ``.safetensors``), ready to use, in eval mode.

    Args:
        path: the folder or file.
        module: a network of the same kind to put the weights into (a copy is made), when it was given in Python and
            so cannot be built from its name.
        unsafe: see :func:`dreamstill.networks.state_dicts.load_state`.
    """
    if module is None:
        return resolve(None, path, unsafe=unsafe, role="network").eval()
    state, description = load_state(checkpoint_file(Path(path)), unsafe=unsafe)
    facts = {key: description.get(key) for key in FACTS}
    if None in facts.values():
        raise InputError(f"{path} does not describe its network: it was not written by dreamstill")
    module = copy.deepcopy(module)
    if description.get("name") == reused_classifier.NAME and not isinstance(module, reused_classifier.SharedClassifier):
        module = reused_classifier.rebuilt(module, description["num_classes"], description.get("kwargs", {}))
    network = Network(module, name=str(description.get("name", "")), **facts)  # type: ignore[arg-type]
    apply_state(network.module, state, str(path))
    return network.eval()


def _agree(given: dict[str, Any], description: dict[str, Any], path: Path | None, role: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for key in FACTS:
        ours, theirs = _plain(key, given[key]), _plain(key, description.get(key))
        if ours is not None and theirs is not None and not _equal(ours, theirs):
            raise InputError(f"{path} says its {key} is {theirs} and you gave {ours}: leave out {key}, or correct it")
        facts[key] = theirs if ours is None else ours
    facts["channels"] = 3 if facts["channels"] is None else facts["channels"]
    missing = [k for k in FACTS if facts[k] is None]
    if missing:
        source = f"{path} is a bare file" if path else "there is no checkpoint that says it"
        flags = ", ".join("--" + k for k in missing)
        raise InputError(
            f"the {role} needs {flags}: {source}, so give {'it' if len(missing) == 1 else 'them'} yourself"
        )
    for key, least in (("num_classes", 2), ("channels", 1)):
        if facts[key] < least:
            raise InputError(f"{key} is {facts[key]}: the {role} needs at least {least}")
    return facts


def _refuse_larger(
    name: str, kwargs: dict[str, Any], facts: dict[str, Any], state: dict[str, Tensor], path: Path | None
) -> None:
    """A file of a few bytes must not ask for a network that fills the memory."""
    if ":" in name or name == reused_classifier.NAME or any(key.endswith("weights") for key in kwargs):
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            asked = values(_construct(name, kwargs, facts))
    except InputError:  # with values it may go well, and else it says the same
        return
    held = sum(t.numel() for t in state.values())
    if asked > 10 * held + 1_000_000:
        raise InputError(
            f"{path} holds {held:,} values and {name} with {kwargs} would have {asked:,}: give the file that belongs "
            "to it, or other arguments"
        )


def _plain(key: str, value: Any) -> Any:
    if value is None or key in ("num_classes", "channels"):
        return value
    if key == "image_size":
        return list(sides(key, value if isinstance(value, int) else [int(v) for v in value]))
    return [float(v) for v in value]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(abs(x - y) < 1e-4 for x, y in zip(a, b, strict=True))
    return a == b


def refuse_own_code(name: Any, path: Path | None) -> None:
    """A file must not choose which code is imported and called.

    Raises:
        InputError: ``name`` is a ``package.module:factory``.
    """
    if isinstance(name, str) and ":" in name:
        raise InputError(
            f"{path} asks for {name}, and calling that executes code of the file's choice: if you trust it, pass "
            "--unsafe-load, or name it yourself where the command has a place for it (--teacher, --student, --network, "
            "--method)"
        )


def has_weights(teacher: str | None, checkpoint: str | None) -> None:
    """Make sure that a teacher is not a network with fresh weights; a factory may load its own.

    Raises:
        InputError: a built-in name, or a file in a name's place, without a checkpoint.
    """
    if checkpoint is not None or ":" in str(teacher):
        return
    if os.path.exists(str(teacher)):  # unlike Path's, false for a name that no file can have
        raise InputError(
            f"--teacher is {teacher}, which is a file or folder: give it as --teacher-checkpoint, and the network's "
            "name as --teacher"
        )
    raise InputError(
        f"the teacher {teacher} has no weights: give --teacher-checkpoint, a .safetensors, a .pt state_dict or a run "
        "folder"
    )


def _agree_name(
    name: str | None, kwargs: dict[str, Any], description: dict[str, Any], path: Path | None, role: str
) -> tuple[str, dict[str, Any]]:
    written = description.get("name")
    if name is None:
        if not written:
            raise InputError(
                f"{path} does not say which network it is: name the {role}, built in or package.module:factory"
            )
        return written, {**description.get("kwargs", {}), **kwargs}
    if written == name:
        return name, {**description.get("kwargs", {}), **kwargs}
    return name, kwargs


def _construct(name: str, kwargs: dict[str, Any], facts: dict[str, Any]) -> nn.Module:
    if name == reused_classifier.NAME:
        if not isinstance(kwargs.get("base"), str):
            raise InputError(f"{name} needs its base: a method makes it, load it from the run folder that holds it")
        base = _construct(kwargs["base"], kwargs.get("base_args", {}), facts)
        return reused_classifier.rebuilt(base, facts["num_classes"], kwargs)
    if ":" not in name:
        h, w = facts["image_size"]
        try:
            module = builtin.build(
                name, num_classes=facts["num_classes"], channels=facts["channels"], image_size=(h, w), **kwargs
            )
        except InputError:
            raise
        except Exception as error:  # whatever layers raise for a width of -3 or "abc"
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{name} cannot be built with {kwargs} ({said}): give other arguments") from error
        if empty := [key for key, p in module.named_parameters() if p.numel() == 0]:
            raise InputError(f"{name} has nothing in {', '.join(empty[:3])} with {kwargs}: give widths of at least 1")
        return module
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two for names such as ":f"
        raise InputError(f"{name} could not be imported ({error}): give package.module:factory") from error
    if not callable(factory):
        raise InputError(f"{name} is a {type(factory).__name__}: expected a class or function that makes a network")
    accepted = inspect.signature(factory).parameters
    extra = {"num_classes": facts["num_classes"]} if "num_classes" in accepted and "num_classes" not in kwargs else {}
    try:
        built = factory(**kwargs, **extra)
    except TypeError as error:
        raise InputError(f"{name} could not be called with {kwargs or 'no arguments'}: {error}") from error
    if not isinstance(built, nn.Module):
        raise InputError(f"{name} returned {type(built).__name__}: expected a torch.nn.Module")
    return built


# ---------------------------------------------------------------- writing


def save_network(path: Path, network: Network, extra: dict[str, Any] | None = None) -> None:
    """Write a network's weights with its own description, so that :func:`load_network` needs nothing else."""
    # Clones: safetensors refuses tensors that share memory, and wants contiguous ones.
    state = {
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in network.module.state_dict().items()
    }
    about = json.loads(json.dumps({"schema": NETWORK_SCHEMA, **network.description(), **(extra or {})}))
    about[SUM] = summed(about, state)
    atomic_write(path, save(state, metadata={"format": "pt", "dreamstill": json.dumps(about)}))
