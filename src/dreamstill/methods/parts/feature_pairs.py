"""Which layers of teacher and student are compared: the networks' own stages or layers named, paired from the last."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dreamstill.errors import InputError
from dreamstill.networks.network import Network


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


def stages(network: Network, named: list[str] | None, role: str) -> list[str]:
    """The layers that the user named, or the stages that a built-in network declares."""
    found = list(getattr(network.module, "taps", ())) if named is None else list(named)
    if not found:
        layers = [name for name, _ in network.module.named_modules()][1:9]
        raise InputError(
            f"{network.name} does not say which of its layers are stages: name some with {role}_taps, or set w_at 0; "
            f"its layers are {', '.join(layers)}, ..."
        )
    return found


def paired(teacher: list[str], student: list[str]) -> list[tuple[str, str]]:
    """Teacher's and student's layers, the last with the last, as far as both reach."""
    n = min(len(teacher), len(student))
    return list(zip(teacher[len(teacher) - n :], student[len(student) - n :], strict=True))


def comparable(
    pairs: list[tuple[str, str]],
    teacher: tuple[Network, Mapping[str, Tensor]],
    student: tuple[Network, Mapping[str, Tensor]],
    least: int,
) -> tuple[list[tuple[str, str]], list[tuple[int, int]]]:
    """Of the pairs (teacher's layer, student's) those of maps with ``least`` positions, and their channels.

    Args:
        pairs: names of layers.
        teacher: the network, and what its layers give (``b c h w``) by name.
        student: likewise.
        least: positions, h times w.

    Returns:
        The pairs kept, and for each the channels of student and teacher.

    Raises:
        InputError: a layer gives no maps, or no pair is left.
    """
    kept, channels = [], []
    for t, s in pairs:
        for (network, seen), name in ((teacher, t), (student, s)):
            if seen[name].dim() != 4:
                raise InputError(
                    f"the layer {name} of {network.name} gives {seen[name].dim()} dimensions: name layers that give "
                    "feature maps (b c h w)"
                )
        theirs, ours = teacher[1][t], student[1][s]
        if min(theirs[0, 0].numel(), ours[0, 0].numel()) >= least:
            kept.append((t, s))
            channels.append((ours.shape[1], theirs.shape[1]))
    if not kept:
        raise InputError(
            f"no compared layer of {teacher[0].name} and {student[0].name} has more than one position: name others "
            "with teacher_taps and student_taps, or set w_at 0"
        )
    return kept, channels
