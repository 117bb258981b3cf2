"""How much the images of a class differ, as the teacher's features have it: the made ones' beside the real ones'."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.networks.probes import Probe, last_linear, without_probes
from dreamstill.runs.plan import Finished
from dreamstill.tasks.metrics import within_class_spread

BATCH = 250


def feature_spread(done: Finished) -> dict[str, Any]:
    """``spread`` of a finished distillation: ``made``, and ``real``, of as many images of the scored set, or None.

    A class is what the teacher takes an image for, of both. Nothing for a teacher without features to compare.
    """
    given, test, images = done.plan.inputs.given.teacher, done.plan.inputs.test, done.images
    tap = last_linear(given.module)
    if done.engine.task.name != "classification" or images is None or tap is None:
        return {}
    teacher = copy.deepcopy(given).eval().requires_grad_(False)
    without_probes(teacher)
    made = _of(teacher, f"{tap}:input", images)
    if made is None:
        return {}
    real = None
    if test is not None:
        # Evenly from the whole set: some lie in the order of their classes.
        chosen = torch.linspace(0, len(test) - 1, min(len(images), len(test))).long()
        real = _of(teacher, f"{tap}:input", test.pixels[chosen])
    return {"spread": {"made": made, "real": real}}


@torch.no_grad()
def _of(teacher: Network, tap: str, images: Tensor) -> float | None:
    """Of images ``n c h w``; None where the layer is not run, or takes no vector an image."""
    probe, at = Probe(teacher, [tap]), teacher.mean
    features, classes = [], []
    for part in images.split(BATCH):
        try:
            seen = probe((to_float(part) if part.dtype == torch.uint8 else part).to(at.device, at.dtype))
        except KeyError:  # a layer that the forward pass leaves out
            return None
        if seen.taps[tap].dim() != 2:
            return None
        features.append(seen.taps[tap].float().cpu())
        classes.append(seen.logits.argmax(1).cpu())
    return within_class_spread(torch.cat(features), torch.cat(classes))
