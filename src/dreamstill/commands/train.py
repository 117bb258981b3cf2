"""``dreamstill train``: ordinary supervised training, for teachers and for yardsticks that may see the data."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import SGD

from dreamstill.data.augment import relight, starts
from dreamstill.engine import Engine, Hardware, Terms, choose
from dreamstill.engine.schedules import warm_cosine
from dreamstill.messages import say
from dreamstill.methods import Method, Phase
from dreamstill.networks.cost import count
from dreamstill.networks.network import Network, sides
from dreamstill.networks.pixels import to_float
from dreamstill.report import write_report
from dreamstill.runs.folder import folder_for
from dreamstill.runs.inputs import Inputs
from dreamstill.runs.memory import in_words
from dreamstill.runs.plan import Finished, plan_run
from dreamstill.runs.random_numbers import kept_random_streams
from dreamstill.runs.resume import resumed, started_again
from dreamstill.runs.run import carry_out
from dreamstill.runs.settings import ClassWeights, TrainSettings
from dreamstill.runs.summary import write_results
from dreamstill.runs.training_inputs import training_inputs

# Sets in which a mirrored image is as good.
PHOTOGRAPHS = {"cifar10", "cifar100", "caltech101", "collected32", "camvid"}


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


@kept_random_streams()
def run_training(settings: TrainSettings) -> Network:
    """Carry out :func:`dreamstill.api.train`."""
    began = time.monotonic()
    if settings.resume or started_again(settings):
        settings = resumed(settings)
    settings.check()
    settings = replace(
        settings, image_size=_sides("image_size", settings.image_size), set_size=_sides("set_size", settings.set_size)
    )
    out = folder_for(settings.out, "train")
    if not settings.quiet:
        say(f"run folder: {out}")
    inputs = training_inputs(settings)
    flip = settings.flip if settings.flip is not None else inputs.real_name in PHOTOGRAPHS
    settings = replace(settings, flip=flip)
    method = Supervised(**{f.name: getattr(settings, f.name) for f in fields(Supervised)})
    hardware, steps = _budget(settings, inputs)
    plan = plan_run(settings, method, inputs, hardware, steps, began, out=out)
    with in_words("give a smaller --batch-size"):
        trained = carry_out(plan, _finish)
    if not settings.quiet:
        say(f"\n{plan.out / 'model.safetensors'} and {plan.out / 'report.html'}")
    return trained


def _sides(name: str, value: int | list[int] | None) -> list[int] | None:
    return None if value is None else list(sides(name, value))


def _budget(settings: TrainSettings, inputs: Inputs) -> tuple[Hardware, int]:
    """Hardware and steps, resolved."""
    pixels, _ = inputs.given.real()
    steps = max(1, round(settings.epochs * (len(pixels) // settings.batch_size)))
    network = inputs.given.student
    work = 3.0 * steps * settings.batch_size * count(network, network.channels, network.image_size).flops
    return choose(settings.device, settings.precision, settings.compile, work), steps


def _finish(done: Finished) -> None:
    write_results(done, lambda _: {})
    # Last of all, because its presence says that the run is finished.
    write_report(done.plan.out)
