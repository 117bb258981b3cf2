"""HiDFD with three defects of its released code (commit b193758), each by its setting.

``docs/methods/hidfd.md`` lists all of them. Those that are a number or a choice are settings of HiDFD itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dreamstill.engine import Cast, Engine
from dreamstill.methods.hidfd import HiDFD
from dreamstill.networks.gan import Judged
from dreamstill.networks.probes import Observed


@dataclass
class ReleasedHiDFD(HiDFD):
    """The released code shows the teacher other pixels, stops a gradient and stretches what it writes."""

    def setup(self, engine: Engine) -> None:
        """As the parent's; while the GAN learns the teacher is shown, and the feature head learns, as released."""
        super().setup(engine)
        if self.released_pixels:
            self.teacher = ShownReleasedPixels(engine, self.teacher)
        if not self.feature_gradient:
            self.discriminator = WithoutFeatureGradient(self.discriminator, engine.fabric)

    def preset(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """``stretch``: each image fills the full range, as the released code's export does."""
        images, y = super().preset(engine)
        if self.stretch:
            low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
            images = (images - low) / (high - low).clamp_min(1e-5)
        return images, y


class ShownReleasedPixels(Cast):
    """The teacher takes images in [-1, 1] in place of what its own mean and std make of them."""

    def __init__(self, engine: Engine, teacher: Cast) -> None:
        super().__init__(teacher, engine.fabric)
        self.network = engine.given.teacher

    def forward(self, images: Tensor) -> Observed:
        """Images ``b c h w``, nominal [0, 1]."""
        seen: Observed = self.module((2 * images - 1) * self.network.std + self.network.mean)
        return seen


class WithoutFeatureGradient(Cast):
    """The discriminator, whose feature head never learns: its terms are computed and change nothing."""

    def forward(self, images: Tensor) -> Judged:
        """Images ``b c h w``, in [0, 1]."""
        judged: Judged = self.module(images)
        return judged._replace(features=judged.features.detach())
