"""As many synthetic images of each class as of any other, by what the teacher takes them for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamstill.errors import InputError
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_uint8
from dreamstill.networks.predict import predict

_DRAWS = 40  # images looked at, of one wanted, before a class is given up


def balanced_order(pixels: Tensor, teacher: Network, n: int) -> Tensor:
    """Which of some images (uint8 ``m c h w``) to take: ``n`` places, the j-th of class ``j mod k``.

    Raises:
        InputError: there are too few of a class.
    """
    labels, k = predict(teacher, pixels).argmax(1), teacher.num_classes
    order = torch.empty(n, dtype=torch.int64)
    for c in range(min(k, n)):
        wanted, there = len(range(c, n, k)), (labels == c).nonzero().flatten()
        if len(there) < wanted:
            raise InputError(
                f"the run's transfer set has {len(there)} images of class {c}, and {wanted} are needed for {n} "
                f"balanced ones: give --n {k * int(torch.bincount(labels, minlength=k).min())} or less, or leave out "
                "--balanced"
            )
        order[c::k] = there[:wanted]
    return order


def balanced(make: Callable[[int], Tensor], teacher: Network, wanted: Tensor) -> Tensor:
    """Images in a mixed order (uint8 ``n c h w``) with ``wanted`` (``k``) of each class.

    Args:
        make: about so many images (``n c h w``), others at every call.
        teacher: says the classes.
        wanted: how many of each.

    Raises:
        InputError: a class hardly comes up.
    """
    n, k = int(wanted.sum()), teacher.num_classes
    taken: list[Tensor] = []
    labels: list[Tensor] = []
    missing, seen = wanted.clone(), torch.zeros(k, dtype=torch.int64)
    while missing.any():
        if int(seen.sum()) >= _DRAWS * n:
            rare = (missing > 0).nonzero().flatten().tolist()
            numbers = ", ".join(f"{c} ({int(seen[c])})" for c in rare[:10])
            raise InputError(
                f"of {int(seen.sum()):,} images too few are of the classes {numbers}{', ...' if len(rare) > 10 else ''}"
                ": leave out --balanced, or take a run whose images show all classes evenly"
            )
        pixels = to_uint8(make(n)).cpu()
        found = predict(teacher, pixels).argmax(1)
        seen += torch.bincount(found, minlength=k)
        for c in missing.nonzero().flatten().tolist():
            chosen = (found == c).nonzero().flatten()[: int(missing[c])]
            taken.append(pixels[chosen])
            labels.append(found[chosen])
            missing[c] -= len(chosen)
    # By turns, as far as the numbers go, so that every part of the set is balanced too.
    said = torch.cat(labels)
    turn = torch.zeros(n, dtype=torch.int64)
    for c in range(k):
        turn[said == c] = torch.arange(int(wanted[c]))
    return torch.cat(taken)[(turn * k + said).argsort()]
