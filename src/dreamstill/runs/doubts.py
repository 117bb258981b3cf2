"""What looks wrong about a usable teacher. It is said before the run and kept in its summary."""

from __future__ import annotations

import torch

from dreamstill.data.image_set import ImageSet
from dreamstill.networks.network import Network, plain_copy
from dreamstill.networks.normalisation import normalisation_check
from dreamstill.networks.trained import fresh_batch_norm
from dreamstill.tasks import metrics, task_of
from dreamstill.tasks.label_order import suspicion

_LOOKED_AT = 512  # of the labelled images, evenly chosen: enough to tell a teacher from chance


def doubts(teacher: Network, test: ImageSet | None = None) -> list[str]:
    """Warnings about mean and std, about batch norms that saw no image, and about answers near chance.

    Args:
        teacher: left as it is.
        test: a labelled set to score it on, if there is one.
    """
    found = []
    check = normalisation_check(teacher)
    if check["verdict"] == "implausible":
        found.append(f"warning: the teacher's mean and std are implausible: {check['why']}. Check --mean and --std")
    if fresh := fresh_batch_norm(teacher):
        found.append(
            f"warning: the batch norms of the teacher ({fresh}) have the mean 0 and variance 1 of a fresh network. "
            "Were its weights loaded?"
        )
    if test is not None and test.labels is not None and task_of(teacher).name == "classification":
        n = min(len(test), _LOOKED_AT)
        some = test.subset(torch.linspace(0, len(test) - 1, n).long())
        scores = metrics.evaluate(plain_copy(teacher), some)
        if doubt := suspicion("teacher", scores["confusion"], test.classes):
            found.append(doubt)
    return found
