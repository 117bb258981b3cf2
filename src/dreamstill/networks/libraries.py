"""Networks of other libraries by name: ``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER`` or ``hf:owner/model``.

Where the user says nothing, the library's own record of the model's images is used: mean, std, size, channels,
number and names of the classes.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dreamstill.errors import InputError, first_line


@dataclass(frozen=True)
class Built:
    """A library's network, and what the library says about it."""

    module: nn.Module
    facts: dict[str, Any] = field(default_factory=dict)  # by the names of dreamstill.networks.load.FACTS
    classes: tuple[str, ...] | None = None
    source: str = ""  # where the library keeps these facts


def is_library(name: str | None) -> bool:
    """Whether a name is one of a library's models; ``timm:create_model`` is a function of that package."""
    library, colon, inside = str(name).partition(":")
    return bool(colon) and library in _BUILDERS and inside not in ("", *_FUNCTIONS.get(library, ()))


def build(name: str, kwargs: Mapping[str, Any], told: Mapping[str, Any], pretrained: bool) -> Built:
    """Build a model by its name.

    Args:
        name: see the module's text.
        kwargs: the library's own arguments.
        told: what is known about the images, by the names of ``FACTS``; None for what is unknown.
        pretrained: whether it comes with the library's weights; otherwise it has ``told``'s classes and channels.

    Raises:
        InputError: the library or its weights are missing, or there is no such model.
    """
    library, _, inside = name.partition(":")
    try:
        return _BUILDERS[library](inside, dict(kwargs), told, pretrained)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{name} needs {_INSTALL[library][0]} ({error}): pip install {_INSTALL[library][1]}"
        ) from error
    except Exception as error:  # the libraries raise whatever their download, their parser or their layers raise
        said = f"{type(error).__name__}: {first_line(error)}"
        if _is_of_the_network(error):
            raise InputError(
                f"{name} has to download its files, and the internet could not be reached ({said}). Download them "
                "where it can, or give the weights with --teacher-checkpoint"
            ) from error
        raise InputError(
            f"{name} cannot be built with {dict(kwargs) or 'no arguments'} ({said}): check its name and arguments"
        ) from error


_FUNCTIONS = {"timm": ("create_model",)}
_INSTALL = {
    "timm": ("timm", "'dreamstill[models]'"),
    "torchvision": ("torchvision", "'dreamstill[models]'"),
    "hf": ("transformers", "transformers"),
}
_OF_THE_NETWORK = ("connection", "urlerror", "timeout", "offline", "localentrynotfound", "resolve", "gaierror", "proxy")


def _is_of_the_network(error: BaseException | None) -> bool:
    while error is not None:
        text = f"{type(error).__name__} {error}".lower()
        if any(word in text for word in _OF_THE_NETWORK):
            return True
        error = error.__cause__ or error.__context__
    return False


# ---------------------------------------------------------------- timm


def _timm(name: str, kwargs: dict[str, Any], told: Mapping[str, Any], pretrained: bool) -> Built:
    timm = importlib.import_module("timm")
    given = {"pretrained": pretrained, **kwargs}
    fill = {"in_chans": told["channels"], "num_classes": None if given["pretrained"] else told["num_classes"]}
    given = {**{k: v for k, v in fill.items() if v is not None}, **given}
    size = told["image_size"]
    cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=True) if "/" not in name else None
    if size is not None and getattr(cfg, "fixed_input_size", False):  # a vision transformer has positions for one size
        given.setdefault("img_size", tuple(_pair(size)))
    if given["pretrained"] and cfg is not None and not cfg.has_weights:
        raise InputError(f"timm has no weights for {name}: give --teacher-checkpoint, or one of timm.list_pretrained()")
    module = timm.create_model(name, **given)
    found = getattr(module, "pretrained_cfg", None) or {}
    facts = {"num_classes": module.num_classes, **{k: found.get(k) for k in ("mean", "std")}}
    if shape := found.get("input_size"):
        facts |= {"channels": shape[0], "image_size": list(shape[1:])}
    labels = found.get("label_names")
    return Built(module, _filled(facts, given.get("in_chans")), _names(labels, module.num_classes), "pretrained_cfg")


# ---------------------------------------------------------------- torchvision


def _torchvision(name: str, kwargs: dict[str, Any], told: Mapping[str, Any], pretrained: bool) -> Built:
    models = importlib.import_module("torchvision").models
    kinds = models.get_model_weights(name)
    wanted = kwargs.pop("weights", "DEFAULT" if pretrained else None)
    weights = kinds[wanted] if isinstance(wanted, str) else wanted
    fill = {"num_classes": told["num_classes"]} if weights is None and told["num_classes"] is not None else {}
    module = models.get_model(name, weights=weights, **{**fill, **kwargs})
    record = weights or kinds.DEFAULT
    transforms = record.transforms()
    size = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None)
    facts: dict[str, Any] = {"mean": getattr(transforms, "mean", None), "std": getattr(transforms, "std", None)}
    facts |= {"channels": 3, "image_size": list(_pair(size[0] if size and len(size) == 1 else size)) if size else None}
    labels = weights.meta.get("categories") if weights is not None else None
    if labels:
        facts["num_classes"] = len(labels)
    return Built(module, _filled(facts), _names(labels, len(labels or ())), f"the transforms of {record}")


# ---------------------------------------------------------------- Hugging Face


def _hf(name: str, kwargs: dict[str, Any], told: Mapping[str, Any], pretrained: bool) -> Built:
    transformers = importlib.import_module("transformers")
    auto = transformers.AutoModelForImageClassification
    if pretrained:
        module = auto.from_pretrained(name, **kwargs)
        config = module.config
    else:
        config = transformers.AutoConfig.from_pretrained(name)
        fill = {"num_labels": told["num_classes"], "num_channels": told["channels"]}
        if told["image_size"] is not None and isinstance(getattr(config, "image_size", None), int):
            fill["image_size"] = _pair(told["image_size"])[0]
        for key, value in {**{k: v for k, v in fill.items() if v is not None}, **kwargs}.items():
            setattr(config, key, value)
        module = auto.from_config(config)
    labels = [config.id2label[i] for i in range(config.num_labels)]
    facts: dict[str, Any] = {"num_classes": config.num_labels, "channels": getattr(config, "num_channels", None)}
    if size := getattr(config, "image_size", None):
        facts["image_size"] = list(_pair(size))
    facts |= _preprocessing(name, transformers)
    own = None if labels == [f"LABEL_{i}" for i in range(len(labels))] else labels
    return Built(module, _filled(facts), _names(own, config.num_labels), "config.json and preprocessor_config.json")


def _preprocessing(name: str, transformers: Any) -> dict[str, Any]:
    """Mean, std and size from ``preprocessor_config.json``, mean and std in [0, 1] units."""
    path = Path(name) / "preprocessor_config.json"
    if not Path(name).is_dir():
        try:
            path = Path(transformers.utils.hub.cached_file(name, "preprocessor_config.json"))
        except Exception as error:
            if _is_of_the_network(error):
                raise
            return {}
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): fetch it again") from error
    facts: dict[str, Any] = {}
    side = record.get("crop_size") or record.get("size")
    if isinstance(side, dict):
        side = [side["height"], side["width"]] if "height" in side else side.get("shortest_edge")
    if side:
        facts["image_size"] = list(_pair(side))
    normalised = record.get("do_normalize", True) and record.get("image_mean")
    mean, std = (record["image_mean"], record["image_std"]) if normalised else ([0.0], [1.0])
    # The network sees (scale * v - shift - mean) / std of v in [0, 1].
    scale = 255 * record.get("rescale_factor", 1 / 255) if record.get("do_rescale", True) else 255.0
    shift = 1.0 if record.get("rescale_offset") else 0.0
    facts["mean"] = [(m + shift) / scale for m in mean]
    facts["std"] = [s / scale for s in std]
    return facts


_BUILDERS: dict[str, Callable[[str, dict[str, Any], Mapping[str, Any], bool], Built]] = {
    "timm": _timm, "torchvision": _torchvision, "hf": _hf
}  # fmt: skip


# ---------------------------------------------------------------- what is taken over


def _pair(size: Any) -> list[int]:
    return [int(size), int(size)] if isinstance(size, int | float) else [int(v) for v in size]


def _filled(facts: Mapping[str, Any], channels: int | None = None) -> dict[str, Any]:
    """What is known, with one mean and std per channel."""
    found = {k: v for k, v in facts.items() if v is not None}
    c = channels or found.get("channels") or 3
    for key in ("mean", "std"):
        if key in found:
            values = [float(v) for v in found[key]]
            found[key] = values if len(values) == c else [sum(values) / len(values)] * c
    return found | {"channels": c}


def _names(labels: Any, k: int) -> tuple[str, ...] | None:
    return tuple(str(v) for v in labels) if labels and len(labels) == k else None


def taken_over(name: str, built: Built, given: Mapping[str, Any]) -> list[str]:
    """A sentence that says which facts of a library's record are used."""
    used = [f"{key} {_short(value)}" for key, value in built.facts.items() if given.get(key) is None]
    used += [f"class names ({', '.join(built.classes[:3])}, ...)"] if built.classes else []
    return [f"{name}: taken over from {built.source}: {', '.join(used)}"] if used else []


def _short(value: Any) -> str:
    return f"[{', '.join(_short(v) for v in value)}]" if isinstance(value, list | tuple) else f"{value:.6g}"
