"""Load a state dict into a network. torch's own loading decides; prefixes that wrappers put on keys are removed."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor, nn

from dreamstill.errors import InputError, first_line
from dreamstill.networks.file_checks import miscast

_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|avg|polyak|shadow)([._]|$)")
# What training code keeps next to a network's layers: losses, metrics, counters of operations.
_BESIDE = re.compile(r"^(criterion|criteria|loss\w*|\w*loss\w*|metrics?|\w*(acc|accuracy|metrics?)|n_averaged)(\.|$)")
_COUNTERS = ("total_ops", "total_params")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")


def is_average(name: str) -> bool:
    """Whether a key names averaged weights. Training keeps them next to the raw ones, and they are deployed."""
    return bool(_AVERAGE.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))


def apply_state(module: nn.Module, state: dict[str, Tensor], source: str, prefix: str | None = None) -> list[str]:
    """Load a state strictly, under the one prefix that makes its keys those of the network.

    ``load_state_dict`` decides, so that layers translate older keys themselves.

    Args:
        module: the network.
        state: from keys to tensors.
        source: where the state is from, for messages.
        prefix: the only prefix to look under; None searches for it.

    Returns:
        A sentence for each thing that was passed over.

    Raises:
        InputError: keys or shapes differ, or several prefixes fit; names them.
    """
    ours = module.state_dict()
    chosen = prefix is not None
    prefix, notes = _prefix(state, ours, source) if prefix is None else (prefix, [])
    inside = _without(state, prefix)
    chosen &= all(key in inside for key in ours)  # the user chose the prefix, so what else there is may be ignored
    extra = [key for key in inside if key not in ours]
    beside = [k for k in extra if chosen or _BESIDE.match(k) or k.rpartition(".")[2] in _COUNTERS]
    for key in beside:
        del inside[key]
    outside = [key for key in state if not key.startswith(prefix)]
    passed_over = [*outside, *(prefix + key for key in beside)]
    shapes = [k for k in ours if k in inside and ours[k].shape != inside[k].shape]
    missing, unexpected = [], []
    if not shapes and (cast := miscast(ours, inside)):
        raise InputError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(cast[:5])}. Loading would change these "
            "values, so save the weights as floating-point numbers"
        )
    try:
        report = module.load_state_dict(inside, strict=False)
        missing = [k for k in getattr(report, "missing_keys", ()) if not k.endswith("num_batches_tracked")]
        unexpected = list(getattr(report, "unexpected_keys", ()))
    except RuntimeError as error:  # shapes, or a layer's own complaint
        missing = [k for k in ours if k not in inside and not k.endswith("num_batches_tracked")]
        unexpected = [k for k in inside if k not in ours]
        if not (shapes or missing or unexpected):
            raise InputError(f"{source} does not fit {type(module).__name__}: {first_line(error)}") from error
    else:
        shapes = []
    if missing or unexpected or shapes:
        raise InputError(_misfit(module, ours, inside, source, prefix, missing, unexpected, shapes))
    if passed_over:
        notes.append(f"{source} holds more than the network, passed over: {_named(passed_over)}")
    return notes


def _without(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a state under a prefix, with its layers' versions, which they need to translate older keys."""
    found = OrderedDict((k.removeprefix(prefix), v) for k, v in state.items() if k.startswith(prefix))
    versions = getattr(state, "_metadata", None)
    if versions is not None:
        dots = {k + ".": v for k, v in versions.items()}
        found._metadata = OrderedDict(  # type: ignore[attr-defined]
            (k.removeprefix(prefix).removesuffix("."), v) for k, v in dots.items() if k.startswith(prefix)
        )
    return found


# ---------------------------------------------------------------- which prefix


def _prefix(state: dict[str, Tensor], ours: Iterable[str], source: str) -> tuple[str, list[str]]:
    """The prefix to remove, and notes on that choice. It is empty if the keys are the network's already."""
    needed = [k for k in ours if not k.endswith("num_batches_tracked")]
    if not needed:
        return "", []
    under = ["", *dict.fromkeys(k.removesuffix(needed[0]) for k in state if k.endswith("." + needed[0]))]
    covering = [p for p in under if all(p + k in state for k in needed)]
    averages = [p for p in covering if is_average(p)]
    if len(covering) == 2 and len(averages) == 1:
        other = next(p for p in covering if p not in averages)
        return averages[0], [
            f"{source} holds the weights and, under {averages[0]!r}, their average: the average is taken "
            f"(--checkpoint-prefix {other!r} takes the others)"
        ]
    if len(covering) > 1:
        raise InputError(
            f"{source} holds several networks that fit, under {', '.join(map(repr, covering))}: say which, for "
            f"instance with --checkpoint-prefix {covering[-1]}"
        )
    return (covering[0] if covering else _shared(list(state), set(ours))), []


def _shared(keys: list[str], ours: set[str]) -> str:
    """The prefix to remove when parts of the network are missing, so that the error names them well.

    It is what all keys begin with, as long as none of them is ours: a network may itself have its layers under
    ``model.``. Otherwise it is what most keys begin with, if some of ours are under it.
    """
    prefix = ""
    while not ours.intersection(keys):
        firsts = [key.partition(".")[0] + "." for key in keys if "." in key]
        first = max(firsts, key=firsts.count, default="")
        inside = [key.removeprefix(first) for key in keys if key.startswith(first)]
        if not first or not (ours.intersection(inside) or (len(inside) == len(keys) and first in _WRAPPERS)):
            break
        prefix, keys = prefix + first, inside
    return prefix


# ---------------------------------------------------------------- what does not fit


def _misfit(
    module: nn.Module, ours: dict[str, Tensor], state: dict[str, Tensor], source: str, prefix: str,
    missing: list[str], unexpected: list[str], shapes: list[str],
) -> str:  # fmt: skip
    problems = [
        f"{len(keys)} {what} ({_named(keys)})"
        for what, keys in (("missing keys", missing), ("unknown keys", unexpected))
        if keys
    ]
    problems += [
        f"{k} is {tuple(state[k].shape)} in the file and {tuple(ours[k].shape)} in the network" for k in shapes[:5]
    ]
    hint = _shape_hint(ours, state, shapes) if not missing and not unexpected else ""
    if not shapes and all(k.startswith("aux_classifier.") for k in (*missing, *unexpected)):
        hint = f". {'Leave out' if missing else 'Give'} aux_loss: true in the network's arguments"
    elif not hint:
        hint = ". Give the network that the file was saved from, or save the state_dict of just this network"
    without = f" (after removing {prefix!r} from its keys)" if prefix else ""
    return f"{source} does not fit {type(module).__name__}{without}: {'; '.join(problems)}{hint}"


def _named(keys: list[str]) -> str:
    return f"{', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"


def _shape_hint(ours: dict[str, Tensor], state: dict[str, Tensor], shapes: list[str]) -> str:
    first = next((k for k in ours if ours[k].dim() == 4), None)
    # The layer that gives the logits: the last linear one, or the only layer (a segmentation head) that differs.
    last = [k for k in ours if ours[k].dim() == 2][-1:] or [k for k in shapes if ours[k].dim() == 4 and k != first][-1:]
    if (
        last
        and set(shapes) <= {last[0], last[0].replace("weight", "bias")}
        and len(state[last[0]]) != len(ours[last[0]])
        and state[last[0]].shape[1:] == ours[last[0]].shape[1:]
    ):
        return f". The file has {len(state[last[0]])} classes, so set num_classes to that"
    if first is not None and shapes == [first] and state[first].shape[1:2] != ours[first].shape[1:2]:
        return f". The file takes {state[first].shape[1]} channels, so set channels to that"
    return ". It may be another width of the same network"
