"""HiDFD with three defects of its released code (commit b193758), each by its setting.

``docs/methods/hidfd.md`` lists all of them. Those that are a number or a choice are settings of HiDFD itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dreamstill.engine import Engine, Terms
from dreamstill.methods.hidfd import HiDFD


@dataclass
class ReleasedHiDFD(HiDFD):
    """The released code shows the teacher other pixels, stops a gradient and stretches what it writes."""

    def setup(self, engine: Engine) -> None:
        """Also the teacher's mean and std, which ``released_pixels`` undoes."""
        super().setup(engine)
        self.mean, self.std = engine.given.teacher.mean, engine.given.teacher.std

    def shown(self, images: Tensor) -> Tensor:
        """``released_pixels``: the teacher takes [-1, 1] in place of what its own mean and std make of the images."""
        return (2 * images - 1) * self.std + self.mean if self.released_pixels else images

    def integration(self, r: Tensor, t: Tensor) -> Terms:
        """Without ``feature_gradient`` the terms are computed and change nothing: the head never learns."""
        return super().integration(r if self.feature_gradient else r.detach(), t)

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """``stretch``: each image fills the full range, as the released code's export does."""
        images, y = super().preset(engine)
        if self.stretch:
            low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
            images = (images - low) / (high - low).clamp_min(1e-5)
        return images, y
