"""Which layers of teacher and student are compared: the networks' own stages or layers named, paired from the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dreamstill.engine import Cast, Engine
from dreamstill.engine.parts import Owned
from dreamstill.engine.schedules import Schedule
from dreamstill.errors import InputError
from dreamstill.losses.attention import AttentionForm, attention_distance, hint_distance
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Observed, declared_taps


class Adapters(nn.Module):
    """For each pair a 1x1 convolution and batch norm: the student's channels to the teacher's."""

    def __init__(self, channels: list[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), nn.BatchNorm2d(theirs)) for ours, theirs in channels
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps ``b c h w``, one of each pair."""
        return [layer(x) for layer, x in zip(self.layers, maps, strict=True)]


def paired(
    teacher: Network, student: Network, teacher_taps: list[str] | None, student_taps: list[str] | None
) -> list[tuple[str, str]]:
    """Layers of teacher and student, the last with the last, as far as both reach.

    Args:
        teacher: the network.
        student: the network.
        teacher_taps: names of its layers; None takes the stages that a built-in network declares.
        student_taps: the student's.

    Raises:
        InputError: no layers are named and the network declares none.
    """
    theirs, ours = _stages(teacher, teacher_taps, "teacher"), _stages(student, student_taps, "student")
    n = min(len(theirs), len(ours))
    return list(zip(theirs[len(theirs) - n :], ours[len(ours) - n :], strict=True))


def _stages(network: Network, named: list[str] | None, role: str) -> list[str]:
    found = declared_taps(network.module) if named is None else list(named)
    if not found:
        layers = [name for name, _ in network.module.named_modules()][1:9]
        raise InputError(
            f"{network.name} does not say which of its layers are stages: name some with {role}_taps, or set w_at 0; "
            f"its layers are {', '.join(layers)}, ..."
        )
    return found


def comparable(
    engine: Engine, pairs: list[tuple[str, str]], teacher: Cast, student: Cast, least: int
) -> tuple[list[tuple[str, str]], list[tuple[int, int]]]:
    """Keep the pairs (teacher's layer, student's) of feature maps large enough, as a grey image shows.

    Args:
        engine: whose networks these are.
        pairs: names of layers.
        teacher: calls the network and gives those layers' outputs.
        student: the same; in training mode before and after.
        least: positions, height times width, that a map must have.

    Returns:
        The pairs kept, and for each the channels of student and teacher.

    Raises:
        InputError: a layer gives no maps, or no pair is left.
    """
    if not pairs:
        return [], []
    networks = engine.given.teacher, engine.given.student
    grey = networks[0].mean.expand(2, -1, *networks[0].image_size)
    with torch.no_grad(), engine.eagerly():
        student.eval()
        seen = teacher(grey).taps, student(grey).taps
        student.train()
    kept, channels = [], []
    for pair in pairs:
        theirs, ours = (_map(*each) for each in zip(networks, seen, pair, strict=True))
        if min(theirs[0, 0].numel(), ours[0, 0].numel()) >= least:
            kept.append(pair)
            channels.append((ours.shape[1], theirs.shape[1]))
    if not kept:
        raise InputError(
            f"no compared layer of {networks[0].name} and {networks[1].name} has more than one position: name others "
            "with teacher_taps and student_taps, or set w_at 0"
        )
    return kept, channels


def _map(network: Network, seen: Mapping[str, Tensor], name: str) -> Tensor:
    if seen[name].dim() != 4:
        raise InputError(
            f"the layer {name} of {network.name} gives {seen[name].dim()} dimensions: name layers that give feature "
            "maps (b c h w)"
        )
    return seen[name]


def maps(pairs: list[tuple[str, str]], student: Observed, teacher: Observed) -> tuple[list[Tensor], list[Tensor]]:
    """The feature maps of paired layers: the student's, the teacher's."""
    return [student.taps[name] for _, name in pairs], [teacher.taps[name] for name, _ in pairs]


class ComparedMaps:
    """The distance of a student's feature maps to its teacher's, summed over pairs of layers.

    Args:
        engine: whose networks these are.
        wanted: False: no layer is looked up and none is compared.
        teacher_taps: names of the teacher's layers; None takes its own stages.
        student_taps: the student's.
        kind: ``attention``: of the normalised attention maps; ``hint``: of the maps themselves, the student's through
            a trained 1x1 convolution and batch norm.
        form: of the distance of attention maps.

    Raises:
        InputError: no layers are named and the network declares none.
    """

    def __init__(
        self,
        engine: Engine,
        wanted: bool,
        teacher_taps: list[str] | None,
        student_taps: list[str] | None,
        kind: Literal["attention", "hint"],
        form: AttentionForm,
    ) -> None:
        networks = engine.given.teacher, engine.given.student
        self.pairs = paired(*networks, teacher_taps, student_taps) if wanted else []
        self.taps_t, self.taps_s = [t for t, _ in self.pairs], [s for _, s in self.pairs]
        self.kind, self.form = kind, form

    def settle(
        self,
        engine: Engine,
        teacher: Cast,
        student: Cast,
        weight: float,
        make_opt: Callable[..., Optimizer],
        schedule: Schedule,
    ) -> list[Owned]:
        """Drop the pairs whose maps are too small, and give hints of this weight their adapters, which are returned.

        The normalised attention map of one position is always 1.
        """
        least = 1 if self.kind == "hint" else 2
        self.pairs, channels = comparable(engine, self.pairs, teacher, student, least)
        if self.kind == "attention" or weight == 0:
            return []
        self.adapters, opt = engine.own("adapters", Adapters(channels), make_opt, schedule)
        return [opt]

    def __call__(self, student: Observed, teacher: Observed) -> Tensor:
        """The distance that the student learns from, 0-d."""
        if self.kind == "attention":
            return self.attention(student, teacher)
        ours, theirs = maps(self.pairs, student, teacher)
        return hint_distance(self.adapters(ours), theirs)

    def attention(self, student: Observed, teacher: Observed) -> Tensor:
        """The distance of the attention maps, 0-d, whatever the student learns from."""
        return attention_distance(*maps(self.pairs, student, teacher), self.form)
