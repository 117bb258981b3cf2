"""``dreamstill train``: ordinary supervised training, for teachers and for yardsticks that may see the data."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD

from dreamstill.data.augment import relight, starts
from dreamstill.data.image_set import ImageSet
from dreamstill.data.load import load_images, normalisation
from dreamstill.engine import Engine, Given, Terms, choose
from dreamstill.engine.schedules import warm_cosine
from dreamstill.errors import InputError
from dreamstill.methods import Method, Phase
from dreamstill.networks.cost import count
from dreamstill.networks.load import resolve
from dreamstill.networks.network import Network, sides
from dreamstill.networks.output_check import check_output
from dreamstill.networks.pixels import to_float
from dreamstill.report import write_report
from dreamstill.runs.folder import new_folder
from dreamstill.runs.plan import Finished, Plan, anywhere
from dreamstill.runs.resume import resumed, same_inputs
from dreamstill.runs.run import carry_out
from dreamstill.runs.settings import check_run
from dreamstill.runs.summary import write_results
from dreamstill.tasks import task_of
from dreamstill.tasks.checks import check_batch, check_set, load_scored, loaded_size, warn_of_overlap

ClassWeights = Literal["none", "median", "root"]
PHOTOGRAPHS = {
    "cifar10",
    "cifar100",
    "caltech101",
    "collected32",
    "camvid",
}  # sets in which a mirrored image is as good

# Nesterov momentum needs some, and a warm-up that takes the whole run never reaches its rate.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "epochs": (lambda v: v > 0, "above 0"),
    "batch_size": (lambda v: v >= 1, "at least 1"),
    "lr": (lambda v: v > 0, "above 0"),
    "momentum": (lambda v: 0 < v < 1, "above 0 and below 1"),
    "weight_decay": (lambda v: v >= 0, "at least 0"),
    "warmup": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "label_smoothing": (lambda v: 0 <= v <= 1, "0 to 1"),
    "crop": (lambda v: v >= 0, "at least 0"),
    "scale": (lambda v: 0 < v <= 1, "above 0, and 1 at most"),
    "relight": (lambda v: 0 <= v <= 1, "0 to 1"),
    "channels": (lambda v: v in (1, 3), "1 or 3"),
}


@dataclass
class Supervised(Method):
    """``L = CE(S(x), y)`` on real images in shuffled epochs: the same contract as a method, and the same loop.

    Attributes:
        batch_size: images a step.
        lr: peak learning rate of SGD with Nesterov momentum.
        momentum: of SGD.
        weight_decay: of SGD, on all parameters.
        warmup: share of the run in which the learning rate rises; a cosine to zero follows.
        label_smoothing: 0 to 1.
        crop: pad-and-crop shift in pixels.
        flip: mirror at random.
        scale: below 1, in place of ``crop``: a random rectangle of at least that share of the area, scaled up.
        relight: random change of brightness and contrast, 0 to 1.
        class_weights: of the cross-entropy: ``none``; ``median``: the median of the classes' shares of the labels over
            a class's own (Eigen and Fergus, arXiv:1411.4734), so that rare classes count more; ``root``: its square
            root.
    """

    paper: ClassVar[str] = "ordinary supervised training"
    needs: ClassVar[frozenset[str]] = frozenset({"real"})
    outside: ClassVar[tuple[str, ...]] = ("real training images and their labels",)
    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})

    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.05
    label_smoothing: float = 0.0
    crop: int = 4
    flip: bool = False
    scale: float = 1.0
    relight: float = 0.0
    class_weights: ClassWeights = "none"

    def setup(self, engine: Engine) -> None:
        """The real images on the device, and the network."""
        sgd = partial(SGD, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=True)
        self.pixels, self.labels = engine.real()
        self.task, self.network = engine.task, engine.given.student
        k = engine.given.teacher.num_classes
        self.weights = class_weights(self.labels, k, self.class_weights, engine.dtype)
        self.student, self.opt = engine.own("student", self.network, sgd, warm_cosine(self.warmup))

    def phases(self, steps: int) -> list[Phase]:
        """One step an iteration."""
        return [Phase("train", steps, self.step)]

    def step(self, engine: Engine) -> None:
        """The next batch of the epoch's order, cropped and mirrored."""
        index = engine.sweep(len(self.pixels), self.batch_size)
        images, labels = to_float(self.pixels[index], engine.dtype), self.labels[index]
        if self.scale < 1:
            flip = engine.coins(self.batch_size) if self.flip else None
            where = engine.uniform(self.batch_size, 4)
            images, labels = self.task.resized_crop(images, labels, where, flip, self.scale)
        elif self.crop or self.flip or self.pixels.shape[2:] != self.network.image_size:
            size = self.network.image_size
            shift = starts(engine.integers, self.batch_size, self.crop, self.pixels.shape, size)
            flip = engine.coins(self.batch_size) if self.flip else None
            images, labels = self.task.crop_flip(images, labels, shift, flip, self.crop, size)
        if self.relight:
            images = relight(images, engine.uniform(self.batch_size, 2), self.relight)
        engine.minimise(self.loss, self.opt, inputs=(images, labels))

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        """Cross-entropy with the labels."""
        logits = self.student(images)
        return {"cross_entropy": self.task.label_loss(logits, labels, self.label_smoothing, self.weights)}

    def deliver(self) -> Network:
        """The network."""
        return self.network

    def synthesise(self, engine: Engine, n: int) -> Tensor:
        """Real images, as a draw."""
        return to_float(self.pixels[engine.integers(len(self.pixels), n)], engine.dtype)


def class_weights(labels: Tensor, k: int, kind: ClassWeights, dtype: torch.dtype) -> Tensor | None:
    """One weight a class (``k``): the median share of the classes that occur over the class's own; 0 if it does not.

    Args:
        labels: integers, ``n`` or ``n h w`` with void.
        k: number of classes.
        kind: ``none`` gives None, ``root`` the square roots.
        dtype: of the weights.
    """
    if kind == "none":
        return None
    counts = sum(torch.bincount(part.long().flatten(), minlength=max(k, 256))[:k] for part in labels.split(64))
    assert isinstance(counts, Tensor)
    weights = torch.where(counts > 0, counts[counts > 0].double().median() / counts.clamp_min(1), 0.0)
    return (weights.sqrt() if kind == "root" else weights).to(dtype)


def run_training(settings: dict[str, Any], defaults: Mapping[str, Any]) -> Network:
    """Carry out :func:`dreamstill.api.train`, whose arguments have these ``defaults``."""
    began = time.monotonic()
    if settings["resume"]:
        settings = resumed(defaults, settings)
    if settings["network"] is None:
        raise InputError("no network: name one, as dreamstill train wrn_16_2, or package.module:factory")
    if settings["data"] is None:
        raise InputError("train needs --data: digits, a name under --data-root, a parquet file, or class folders")
    check_run(settings)
    _check_ranges(settings)
    if settings["set_size"] is not None and (settings["image_size"] is None or settings["scale"] < 1):
        raise InputError(
            "set_size is what windows of --image-size are cut out of: give --image-size too, and leave --scale at 1, "
            "which makes rectangles of its own"
        )
    for key in ("image_size", "set_size"):
        if settings[key] is not None:
            settings = {**settings, key: list(sides(key, settings[key]))}
    images = load_images(
        settings["data"], "train", root=settings["data_root"],
        image_size=settings["set_size"] or settings["image_size"],
        channels=settings["channels"], limit=settings["limit"],
    )  # fmt: skip
    if images.labels is None:
        raise InputError(f"{settings['data']} has no labels: training needs a label column or class folders")
    torch.manual_seed(settings["seed"])
    network = _network(settings, images)
    loaded_size(settings["set_size"], network.image_size)
    check_output(network, role="network")
    check_set(images, network)
    check_batch(network, settings["batch_size"])
    flip = settings["flip"] if settings["flip"] is not None else images.name in PHOTOGRAPHS
    if settings["batch_size"] > len(images):
        raise InputError(
            f"batches of {settings['batch_size']} cannot be made of {len(images)} images: give a smaller --batch-size"
        )
    method = Supervised(**{k: settings[k] for k in (f.name for f in fields(Supervised)) if k != "flip"}, flip=flip)
    steps = max(1, round(settings["epochs"] * (len(images) // method.batch_size)))
    work = 3.0 * steps * method.batch_size * count(network, network.channels, network.image_size).flops
    hardware = choose(settings["device"], settings["precision"], settings["compile"], work)
    test = load_scored(
        network, settings["data"], settings["split"], root=settings["data_root"], set_size=settings["set_size"]
    )
    warn_of_overlap(settings["data"], settings["data"], test)
    config = anywhere({k: v for k, v in settings.items() if k not in ("out", "resume", "quiet")}) | {
        "network": network.name, "flip": flip, "device": hardware.device,
        "precision": hardware.precision, "compile": "on" if hardware.compile else "off",
        "image_size": list(network.image_size), "channels": network.channels,
    }  # fmt: skip
    out = Path(settings["out"]) if settings["out"] else new_folder(Path("runs"), "train")
    given = Given(network, network, images.pixels, images.labels, task=task_of(network))
    plan = Plan(
        "train", config, out, settings["resume"], settings["quiet"], method, given, test, steps,
        "model.safetensors", compare=False, began=began,
    )  # fmt: skip
    if settings["resume"]:
        same_inputs(plan)
    trained = carry_out(plan, _finish)
    if not settings["quiet"]:
        print(f"\n{out / 'model.safetensors'} and {out / 'report.html'}")
    return trained.requires_grad_(True).eval()  # it may be trained on


def _finish(done: Finished) -> None:
    write_results(done, lambda done: {})
    # Last of all, because its presence says that the run is finished.
    write_report(done.plan.out)


def _check_ranges(settings: dict[str, Any]) -> None:
    for name, (fits, words) in _RANGES.items():
        value = settings[name]
        if value is not None and not (math.isfinite(value) and fits(value)):
            raise InputError(f"{name} is {value}: it must be {words}")


def _network(settings: dict[str, Any], images: ImageSet) -> Network:
    """The network with the set's own facts."""
    mean, std = normalisation(images)
    size = settings["image_size"] if settings["set_size"] is not None else list(images.pixels.shape[2:])
    facts: dict[str, Any] = {
        "num_classes": len(images.classes), "image_size": size,
        "channels": images.pixels.shape[1], "mean": mean, "std": std,
    }  # fmt: skip
    given = settings["network"]
    if isinstance(given, Network):
        return copy.deepcopy(given)
    if isinstance(given, nn.Module):
        return Network(copy.deepcopy(given), **facts)
    return resolve(given, None, kwargs=settings["network_args"], **facts)
