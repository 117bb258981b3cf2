"""What images should be like whatever the teacher answers to them: terms for images that start as noise."""

from __future__ import annotations

from torch import Tensor

from dreamstill.engine import Terms
from dreamstill.losses.image import distance_from_mean, total_variation
from dreamstill.losses.statistics import bn_statistics
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Observed


class ImagePrior:
    """Smooth images, near the teacher's mean, as its batch norms know them; a weight of 0 leaves a term out.

    Args:
        network: the teacher.
        w_tv: weight of the total variation.
        w_norm: weight of the pixels' squared distance from the teacher's mean.
        w_bn: weight of the batch-norm term, the mean over the layers.
    """

    def __init__(self, network: Network, w_tv: float, w_norm: float, w_bn: float) -> None:
        self.network, self.w_tv, self.w_norm, self.w_bn = network, w_tv, w_norm, w_bn

    def __call__(self, images: Tensor, seen: Observed) -> Terms:
        """The weighted terms, of images (``n c h w``) and what the teacher saw in them, with its moments for w_bn."""
        terms = {}
        if self.w_tv > 0:
            terms["tv"] = self.w_tv * total_variation(images)
        if self.w_norm > 0:
            terms["norm"] = self.w_norm * distance_from_mean(images, self.network.mean)
        if self.w_bn > 0:
            terms["bn"] = self.w_bn * bn_statistics(seen.moments)
        return terms
