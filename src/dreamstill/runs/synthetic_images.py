"""Images that the student learned from: how the teacher classifies them, and a picture of some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dreamstill.engine import Engine
from dreamstill.files import atomic_write
from dreamstill.methods import Method
from dreamstill.networks.pixels import to_uint8
from dreamstill.networks.predict import predict
from dreamstill.runs.plan import Finished

IMAGES = 10_000


def obeyed(method: Method, engine: Engine, images: int = IMAGES) -> dict[str, Any]:
    """Label fidelity: the share of about ``images`` fresh images that the teacher takes for the class asked for.

    The generator is in eval mode, and labels are uniform.

    Returns:
        ``preset``: ``images``, ``share``, and ``worst``, the class with the lowest share and that share. Nothing for a
        method without preset labels.
    """
    teacher, k = engine.given.teacher, engine.given.teacher.num_classes
    asked, right = torch.zeros(k), torch.zeros(k)
    with engine.uncounted():
        while asked.sum() < images:
            if (batch := method.preset(engine)) is None:
                return {}
            y = batch[1].cpu()
            hit = predict(teacher, batch[0]).argmax(1) == y
            asked += torch.bincount(y, minlength=k)
            right += torch.bincount(y[hit], minlength=k)
    shares = right / asked.clamp_min(1)
    worst = int(torch.where(asked > 0, shares, 2.0).argmin())
    return {
        "preset": {
            "images": int(asked.sum()),
            "share": float(right.sum() / asked.sum()),
            "worst": {"class": worst, "share": float(shares[worst])},
        }
    }


def look_at_images(done: Finished) -> dict[str, Any]:
    """Write a picture of some images, and return how the teacher classifies them."""
    plan, images = done.plan, done.images
    teacher, k = plan.inputs.given.teacher, plan.inputs.given.teacher.num_classes
    assert images is not None
    task = done.engine.task
    # Unclipped, as the student saw them: what a picture has to clip may matter much to the teacher.
    predicted = task.predict(teacher, images)
    classes: Sequence[str] | None = plan.inputs.test.classes if plan.inputs.test is not None else None
    atomic_write(plan.out / "samples.png", task.samples(to_uint8(images).cpu(), predicted, k, classes))
    return {
        "class_histogram": torch.bincount(predicted.flatten(), minlength=k).tolist(),
        "clipped_share": float(((images < 0) | (images > 1)).float().mean()),
        "agreement_synthetic": float((task.predict(done.network, images) == predicted).double().mean()),
        **obeyed(plan.method, done.engine),
    }
