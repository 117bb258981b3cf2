"""Load and save networks, by one convention everywhere. Loading a file does not execute anything in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from dreamstill.errors import InputError
from dreamstill.files import atomic_write
from dreamstill.networks import builtin, factories, libraries, programs, reused_classifier
from dreamstill.networks.file_checks import SUM, refuse_larger, summed
from dreamstill.networks.file_kinds import PROGRAMS, file_kind
from dreamstill.networks.fitting import apply_state
from dreamstill.networks.network import Network, copied, materialise, sides
from dreamstill.networks.state_dicts import NETWORK_SCHEMA, Found, read_state
from dreamstill.networks.trained import fresh_batch_norm, untrained

# What a network must know about its images.
FACTS = ("num_classes", "image_size", "channels", "mean", "std")
_WHOLE = (*programs.NAMES.values(), programs.PICKLED)  # names of networks that lie in their file


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
    key: str | None = None,
    prefix: str | None = None,
) -> Network:
    """Build a network from a name, a checkpoint, or both, and what is known of its input.

    Args:
        name: a built-in name, ``package.module:factory``, a library's (:mod:`dreamstill.networks.libraries`), or None
            when the checkpoint describes itself or is a program.
        checkpoint: a file or a run folder; None gives fresh weights, or a factory's or library's own.
        kwargs: arguments of the built-in network or factory.
        num_classes: this and the next four must agree with the checkpoint's own description. A bare file has none, so
            the user must give them.
        image_size: side, or (height, width), in pixels.
        channels: 3 if neither the file nor the user says.
        mean: per channel, in [0, 1] units.
        std: per channel, in [0, 1] units.
        unsafe: see :func:`dreamstill.networks.state_dicts.read_state`.
        role: how the network is called in errors.
        key: which of several networks in the file.
        prefix: which of several networks in the state dict, by what their keys begin with.
    """
    if name is not None and ":" not in name and name not in (reused_classifier.NAME, *_WHOLE):
        builtin.find(name)  # before what is missing: of a slip of the pen nobody needs to know the image size
    path = None if checkpoint is None else checkpoint_file(Path(checkpoint))
    given = {"num_classes": num_classes, "image_size": image_size, "channels": channels, "mean": mean, "std": std}
    kind = None if path is None or not path.is_file() else file_kind(path)
    if path is not None and kind in PROGRAMS and name in (None, programs.NAMES[kind]):
        facts = _agree({**programs.facts_of(path, kind), **_told(given)}, {}, path, role)
        return Network(programs.read_program(path, kind, unsafe), name=programs.NAMES[kind], **facts)
    found = Found({}, {}, [], None) if path is None else read_state(path, unsafe=unsafe, key=key)
    if found.module is not None and name in (None, programs.PICKLED):
        return Network(found.module, name=programs.PICKLED, **_agree(given, {}, path, role))
    description = found.description
    if not unsafe and name in (None, description.get("name")):  # a run's name for its teacher does not say its base
        refuse_own_code(None if name else description.get("name"), path)
        refuse_own_code(reused_classifier.base_of(description), path)
    name, kwargs = _agree_name(name, kwargs or {}, description, path, role)
    notes, classes = list(found.notes), description.get("classes")
    if libraries.is_library(name):
        told = {k: description.get(k) if v is None else v for k, v in given.items()}
        built = libraries.build(name, kwargs, told, pretrained=path is None and role == "teacher")
        record = {k: v for k, v in built.facts.items() if description.get(k) is None}
        facts = _agree({**record, **_told(given)}, description, path, role)
        module, classes = built.module, classes or built.classes
        notes += libraries.taken_over(name, built, told)
    else:
        facts = _agree(given, description, path, role)
        if path is not None:
            # Not for code that the user trusts, networks built on another one, and weights from elsewhere.
            if ":" not in name and name != reused_classifier.NAME and not any(k.endswith("weights") for k in kwargs):
                refuse_larger(partial(_construct, name, kwargs, facts), f"{name} with {kwargs}", found.state, path)
        module = _construct(name, kwargs, facts)
    network = Network(module, name=name, kwargs=kwargs, classes=classes, **facts)
    materialise(network)
    if path is not None:
        notes += apply_state(module, found.state, str(path), prefix)
    network.notes = notes
    return network


def _told(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in given.items() if v is not None}


def load_network(path: str | Path, module: nn.Module | None = None, *, unsafe: bool = False) -> Network:
    """A network that dreamstill wrote (a run folder or its ``.safetensors``), ready to use, in eval mode.

    Args:
        path: the folder or file.
        module: a network of the same kind for the weights; it is copied. Needed if the network was given in Python,
            so that no name says how to build it.
        unsafe: see :func:`dreamstill.networks.state_dicts.load_state`.
    """
    if module is None:
        return resolve(None, path, unsafe=unsafe, role="network").eval()
    state, description, *_ = read_state(checkpoint_file(Path(path)), unsafe=unsafe)
    facts = {key: description.get(key) for key in FACTS}
    if None in facts.values():
        raise InputError(f"{path} does not describe its network: it was not written by dreamstill")
    module = copied(module)
    if description.get("name") == reused_classifier.NAME and not isinstance(module, reused_classifier.SharedClassifier):
        module = reused_classifier.rebuilt(module, description["num_classes"], description.get("kwargs", {}))
    classes = description.get("classes")
    network = Network(module, name=str(description.get("name", "")), classes=classes, **facts)  # type: ignore[arg-type]
    materialise(network)
    apply_state(network.module, state, str(path))
    return network.eval()


def _agree(given: dict[str, Any], description: dict[str, Any], path: Path | None, role: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for key in FACTS:
        ours, theirs = _plain(key, given.get(key)), _plain(key, description.get(key))
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
    if isinstance(name, str) and ":" in name and not libraries.is_library(name):
        raise InputError(
            f"{path} asks for {name}, and calling that executes code of the file's choice: if you trust it, pass "
            "--unsafe-load, or name it yourself where the command has a place for it (--teacher, --student, --network, "
            "--method)"
        )


def buildable(name: Any) -> bool:
    """Whether a network's name says how to build it. A module given in Python has only the name of its class."""
    if not isinstance(name, str) or ":" in name or name == reused_classifier.NAME:
        return isinstance(name, str)
    try:
        builtin.find(name)
    except InputError:
        return False
    return True


def check_trained(network: Network, checkpoint: str | Path | None, again: Callable[[], Network]) -> None:
    """Make sure that a teacher made by code outside dreamstill has trained weights.

    Args:
        network: the teacher.
        checkpoint: its weights file, if it has one.
        again: makes and loads it once more.

    Raises:
        InputError: its weights are drawn at random when it is made, or its batch norms have seen no image.
    """
    if ":" not in network.name:
        return
    why = untrained(network, again)
    if why is None and checkpoint is None and (fresh := fresh_batch_norm(network)):
        why = f"its batch norms ({fresh}) have the mean 0 and variance 1 of a fresh network"
    if why is not None:
        cure = "Mend the factory" if checkpoint else "Give --teacher-checkpoint, or a factory that loads weights"
        raise InputError(f"the teacher {network.name} is not trained: {why}. {cure}")


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
                f"{path} does not say which network it is: name the {role}, built-in or as package.module:factory"
            )
        if not buildable(written):
            raise InputError(
                f"{path} holds the weights of a {written} that was given in Python, and nothing says how to build it "
                f"again. {'Pass module= to load_student' if role == 'network' else 'Name it'}, or on the command line "
                f"name its factory with --{'student' if role == 'network' else role} package.module:factory"
            )
        return written, {**description.get("kwargs", {}), **kwargs}
    if written == name:
        return name, {**description.get("kwargs", {}), **kwargs}
    return name, kwargs


def _construct(name: str, kwargs: dict[str, Any], facts: dict[str, Any]) -> nn.Module:
    if name == reused_classifier.NAME:
        if not isinstance(kwargs.get("base"), str):
            raise InputError(f"{name} needs its base, and only a method makes it: load it from its run folder")
        base = _construct(kwargs["base"], kwargs.get("base_args", {}), facts)
        return reused_classifier.rebuilt(base, facts["num_classes"], kwargs)
    if name in _WHOLE:
        raise InputError(f"{name} is a network that lies whole in its file: give the file as the checkpoint")
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
            raise InputError(f"{name} has an empty {', '.join(empty[:3])} with {kwargs}: give widths of at least 1")
        return module
    return factories.made(name, kwargs, facts["num_classes"])


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
