"""Stored images in the student's steps: reuse of what the generator's steps made, and shifted, mirrored draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dreamstill.data.augment import crop_flip
from dreamstill.data.bank import ImageBank, Stored
from dreamstill.engine import Cast, Engine
from dreamstill.errors import InputError
from dreamstill.networks.probes import Observed


def remember(engine: Engine, bank: ImageBank, images: Tensor, logits: Tensor, labels: Tensor | None = None) -> Stored:
    """Store what a generator step has made (this rank's ``b c h w`` and ``b k``); returns it as it was made."""
    every = None if labels is None else engine.gather(labels)
    bank.add(engine.gather(images), every, engine.gather(logits))
    labels = torch.full((len(images),), -1, device=images.device) if labels is None else labels
    return Stored(images, labels, logits)


def reused(engine: Engine, bank: ImageBank, newest: Stored, steps: int, batch_size: int) -> Iterator[Stored]:
    """The batches of an iteration's student steps: what the generator has just made, then stored ones.

    Not in any of the papers: one pass of generator and teacher serves an iteration, in place of one a student step.

    Args:
        engine: whose draws choose.
        bank: the stored images with the teacher's logits of the time.
        newest: the generator step's own batch.
        steps: how many batches, at least 1.
        batch_size: images a batch, of all ranks together.
    """
    yield newest
    for _ in range(steps - 1):
        yield bank.draw(engine.integers(len(bank), batch_size), engine.dtype)


def replayed(engine: Engine, bank: ImageBank, batch_size: int, crop: int, flip: bool) -> Tensor:
    """A batch of stored images, as :func:`shifted` returns them."""
    images = bank.draw(engine.integers(len(bank), batch_size), engine.dtype).images
    return shifted(engine, images, batch_size, crop, flip)


def shifted(engine: Engine, images: Tensor, batch_size: int, crop: int, flip: bool) -> Tensor:
    """Images (``b c h w``), each padded, cropped back at its own offset and mirrored by its own coin.

    Args:
        engine: whose draws these are.
        images: this rank's.
        batch_size: of all ranks together.
        crop: largest shift in pixels.
        flip: mirror every other one.
    """
    shift = engine.integers(2 * crop + 1, batch_size, 2)
    return crop_flip(images, shift, engine.coins(batch_size) if flip else None, crop)


def answered(teacher: Cast, images: Tensor, logits: Tensor | None) -> Observed:
    """What the frozen teacher says of images (``b c h w``), without gradients, or the logits (``b k``) it gave before.

    Stored logits come without features: give None where those are compared.
    """
    with torch.no_grad():
        return teacher(images) if logits is None else Observed(logits, {}, [])


def check_reuse(generator_steps: int, task: str = "classification", moved: bool = False) -> None:
    """Make sure that the generator's images, and what the teacher says of them, can be learned from again.

    Args:
        generator_steps: of an iteration.
        task: of the teacher.
        moved: whether the settings ask for stored images that are replayed, cropped or mirrored.

    Raises:
        InputError: they cannot; says why.
    """
    if generator_steps < 1:
        raise InputError(f"generator_steps is {generator_steps}, and reuse learns from their images: give 1 or more")
    if moved:
        raise InputError("reuse keeps the teacher's logits of whole images: leave out replay, crop and flip with it")
    if task == "segmentation":
        raise InputError(
            "reuse stores the teacher's logits of whole images, and those of a segmentation teacher take many times "
            "the images' memory: leave it out, or take replay, which stores images alone"
        )
