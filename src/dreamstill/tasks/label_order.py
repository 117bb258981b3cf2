"""Whether a network's answers fit a set's labels in another order than the set's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def suspicion(who: str, confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str | None:
    """A warning where a network scores like chance, or where its answers fit the labels in another order far better.

    Near chance is within a tenth of the way from chance to perfect, and at most three times chance.

    Args:
        who: what the network is called.
        confusion: images by label and by answer (``k k``).
        classes: names of the labels.
    """
    counts = torch.tensor(confusion, dtype=torch.float64)
    total, k = float(counts.sum()), len(counts)
    if total < 20:  # of fewer images nothing can be said
        return None
    accuracy = float(counts.diag().sum()) / total
    occurring = counts.sum(1) > 0
    answers = counts.argmax(1)
    used = answers[occurring]
    fitting = float(counts[occurring].amax(1).sum()) / total if len(used.unique()) == len(used) else 0.0
    if len(used) > 1 and fitting > 0.5 and fitting > accuracy + 0.3:
        moved = [i for i in range(k) if bool(occurring[i]) and int(answers[i]) != i]
        names = [classes[i] if i < len(classes) else str(i) for i in moved]
        pairs = ", ".join(f"{name} as class {int(answers[i])}" for name, i in zip(names[:4], moved, strict=False))
        return (
            f"warning: the {who} scores {accuracy:.2%}, and {fitting:.2%} with the labels in another order (it answers "
            f"{pairs}{', ...' if len(moved) > 4 else ''}): put the names of the class folders into classes.txt beside "
            "them, one a line, in the order of the network's outputs"
        )
    if accuracy < min(1 / k + 0.1 * (1 - 1 / k), 3 / k):
        return (
            f"warning: the {who} scores {accuracy:.2%} where chance is {1 / k:.2%}: its mean and std, its weights or "
            "the order of the classes are most likely wrong"
        )
    return None
