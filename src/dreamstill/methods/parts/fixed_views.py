"""Stored images with the teacher's logits of several fixed crops of each: a student step then asks no teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamstill.data.augment import crop_flip
from dreamstill.engine import Engine
from dreamstill.engine.parts import Cast


class FixedViews:
    """A bank of images and the teacher's logits of ``views`` crops of each, the same crops of every image.

    Args:
        engine: whose bank it is.
        capacity: images kept.
        views: crops of each; the first is the whole image.
        crop: largest shift in pixels.
        flip: mirror some of the crops.
        wide: see :meth:`dreamstill.engine.Engine.bank`.
    """

    def __init__(self, engine: Engine, capacity: int, views: int, crop: int, flip: bool, wide: bool) -> None:
        self.crop, self.views, self.flip = crop, views, flip
        self.classes = engine.given.teacher.num_classes
        self.bank = engine.bank("images", capacity, logits=True, wide=wide, views=views)
        every = -(-views // engine.ranks) * engine.ranks  # a draw is shared by the ranks, and all have the same crops
        shift = engine.gather(engine.integers(2 * crop + 1, every, 2))[:views]
        coins = engine.gather(engine.coins(every))[:views]
        shift[0], coins[0] = crop, False
        self.shift, self.coins = shift, coins if flip else torch.zeros_like(coins)

    def any_view(self, engine: Engine, n: int) -> tuple[Tensor, Tensor]:
        """Shifts (``n 2``) and coins (``n``) of crops anew."""
        return engine.integers(2 * self.crop + 1, n, 2), engine.coins(n)

    def add(self, engine: Engine, images: Tensor, labels: Tensor, teacher: Cast) -> None:
        """Store images (``b c h w``) with what the teacher says of each view."""
        b = len(images)
        logits = []
        for v in range(self.views):
            x = crop_flip(images, self.shift[v].expand(b, 2), self.coins[v].expand(b), self.crop)
            logits.append(engine.make(teacher, x).logits)
        self.bank.add(engine.gather(images), engine.gather(labels), engine.gather(torch.cat(logits, dim=1)))

    def draw(self, engine: Engine, n: int) -> tuple[Tensor, Tensor]:
        """A batch of views (``n c h w``) and their logits (``n k``)."""
        stored = self.bank.draw(engine.integers(len(self.bank), n), engine.dtype)
        view = engine.integers(self.views, n)
        x = crop_flip(stored.images, self.shift[view], self.coins[view], self.crop)
        rows = torch.arange(len(view), device=view.device)
        return x, stored.logits.view(len(view), self.views, self.classes)[rows, view]
