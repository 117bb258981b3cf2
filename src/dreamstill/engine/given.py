"""What the user gives to a run, and the errors for what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from dreamstill.errors import InputError
from dreamstill.networks.network import Network

if TYPE_CHECKING:
    from dreamstill.tasks import Task


@dataclass
class Given:
    """What the user gave: networks, their task, and real or collected images if a method may see them."""

    teacher: Network
    student: Network
    real_pixels: Tensor | None = None  # uint8 n c h w
    real_labels: Tensor | None = None  # int64 n, or uint8 n h w
    collected: Tensor | None = None  # uint8 n c h w, without labels
    transfer_pixels: Tensor | None = None  # uint8 n c h w
    transfer_logits: Tensor | None = None  # n k, the teacher's for exactly these images
    task: Task = field(kw_only=True)  # the teacher's

    def real(self) -> tuple[Tensor, Tensor]:
        """Real images and labels, or an error that names the option."""
        if self.real_pixels is None or self.real_labels is None:
            raise InputError("this control trains on real images and none were given: name the set with --real")
        return self.real_pixels, self.real_labels

    def unlabelled(self) -> Tensor:
        """Collected images, or an error that names the option."""
        if self.collected is None:
            raise InputError(
                "this method learns from collected images and none were given: name a folder or set with --collected"
            )
        return self.collected

    def transfer(self) -> tuple[Tensor, Tensor]:
        """A stored transfer set's images and logits, or an error that names the option."""
        if self.transfer_pixels is None or self.transfer_logits is None:
            raise InputError(
                "this method learns from a stored transfer set and none was given: name it with --transfer"
            )
        return self.transfer_pixels, self.transfer_logits
