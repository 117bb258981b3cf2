"""Whether a conditional generator does as it is told: how often the teacher sees the class that was asked for."""

from __future__ import annotations

from typing import Any

import torch

from dreamstill import metrics
from dreamstill.engine import Engine
from dreamstill.methods import Method

IMAGES = 10_000


def obeyed(method: Method, engine: Engine, images: int = IMAGES) -> dict[str, Any]:
    """Share of about ``images`` fresh ones, generator in eval mode, labels uniform, that are what was asked for.

    Returns:
        ``preset``: ``images``, ``share``, and ``worst``, the class with the lowest share, with that; nothing for a
        method without preset labels.
    """
    preset = getattr(method, "preset", None)
    if preset is None:
        return {}
    teacher, k = engine.given.teacher, engine.given.teacher.num_classes
    asked, right, drawn = torch.zeros(k), torch.zeros(k), engine.drawn
    while asked.sum() < images:
        batch = preset(engine)
        if batch is None:
            return {}
        y = batch[1].cpu()
        hit = metrics.predict(teacher, batch[0]).argmax(1) == y
        asked += torch.bincount(y, minlength=k)
        right += torch.bincount(y[hit], minlength=k)
    engine.drawn = drawn  # the account is of the run's images
    shares = right / asked.clamp_min(1)
    worst = int(torch.where(asked > 0, shares, 2.0).argmin())
    return {
        "preset": {
            "images": int(asked.sum()),
            "share": float(right.sum() / asked.sum()),
            "worst": {"class": worst, "share": float(shares[worst])},
        }
    }
