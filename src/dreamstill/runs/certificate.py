"""How well a student copies its teacher, measured without data, on images that the student never learned from.

No such image is certain to resemble the data. So there are several sources. Each counts by how much it looks like the
teacher's data to the teacher: how near its batch-norm statistics are to the running ones, how confident the teacher is,
and how evenly the images fill its classes. The images that the student learned from are used only mixed or warped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamstill.engine.draws import Draws
from dreamstill.engine.seeds import stream
from dreamstill.losses.statistics import channel_divergence
from dreamstill.networks.cost import count
from dreamstill.networks.network import Network
from dreamstill.networks.normalisation import normalisation_check
from dreamstill.networks.output_check import output_kind
from dreamstill.networks.pixels import to_float
from dreamstill.networks.predict import predict
from dreamstill.networks.probes import Probe, without_probes
from dreamstill.runs import probe_images
from dreamstill.runs.plan import Finished
from dreamstill.tasks import metrics

IMAGES = 400  # per source, if their cost allows
FEWEST = 64
BATCH = 100  # images whose batch-norm statistics are compared at a time
SHARE = 0.02  # of the run's operations may go into the certificate
LEAST = 5e11  # operations that it may take after any run: seconds on a processor
JUDGED = 10  # images that a class must have before its agreement is given as the worst
SEEN = 0.005  # of the images: a class with a smaller share counts as not seen by the teacher
STEEPNESS = 4.0  # of a source's weight as a function of the distance of its statistics
FARTHEST = 10.0  # nats, the largest difference that counts: a dead channel would outweigh all others


@dataclass(frozen=True)
class Source:
    """What two networks say about images of one kind, all on the CPU."""

    name: str
    teacher: Tensor  # logits ``n k``
    student: Tensor  # logits ``n k``
    distance: float | None  # of the batch-norm statistics, nats per channel; None without batch norm

    @property
    def weight(self) -> float:
        """How much the source looks like the teacher's data, 0 to 1."""
        nearness = 1.0 if self.distance is None else math.exp(-STEEPNESS * self.distance)
        return nearness * self.confidence * metrics.evenness(self.shares)

    @property
    def confidence(self) -> float:
        """The teacher's mean confidence."""
        return float(self.teacher.softmax(1).amax(1).mean())

    @property
    def shares(self) -> Tensor:
        """Shares of the classes that the teacher gives (``k``)."""
        return metrics.class_shares(self.teacher.argmax(1), self.teacher.shape[1])

    @property
    def answers(self) -> Tensor:
        """Shares of the classes that the student gives (``k``)."""
        return metrics.class_shares(self.student.argmax(1), self.student.shape[1])

    @property
    def hits(self) -> Tensor:
        """Share of the images to which both networks give each class (``k``)."""
        k, same = self.teacher.shape[1], self.student.argmax(1) == self.teacher.argmax(1)
        return torch.bincount(self.teacher.argmax(1)[same], minlength=k).double() / len(same)

    def entry(self) -> dict[str, Any]:
        """For ``summary.json``."""
        labels = self.teacher.argmax(1)
        return {
            "name": self.name,
            "images": len(labels),
            "weight": self.weight,
            "agreement": metrics.agreement(self.student, self.teacher),
            "ece": metrics.calibration_error(self.student, labels),
            "bn_distance": self.distance,
            "confidence": self.confidence,
            "evenness": metrics.evenness(self.shares),
            "largest_share": float(self.shares.max()),
            "largest_answer": float(self.answers.max()),
        }


def summarise(sources: list[Source]) -> dict[str, Any]:
    """The figures over all sources, each counted by its weight, or equally if all weights are 0.

    Returns:
        ``agreement``: the share of a class's images to which the student gives that class, too, averaged over the
        teacher's classes. ``worst_class``: among those with enough images, or None. ``ece``: of the student's
        confidence, with the teacher's class as the truth. ``coverage``: how many classes the teacher sees, which of
        them the student never gives, the student's most frequent answer with its share, and the teacher's share of the
        same class. ``sources``: one entry each.
    """
    given = torch.tensor([s.weight for s in sources], dtype=torch.float64)
    weights = given / given.sum() if float(given.sum()) > 0 else torch.full_like(given, 1 / len(sources))

    def total(of: Callable[[Source], Tensor]) -> Tensor:
        return torch.stack([w * of(s) for w, s in zip(weights, sources, strict=True)]).sum(0)

    shares, answers, hits = total(lambda s: s.shares), total(lambda s: s.answers), total(lambda s: s.hits)
    numbers = torch.stack([s.shares * len(s.teacher) for s in sources]).sum(0)
    each = hits / shares.clamp_min(1e-12)
    seen, often = shares >= min(SEEN, 0.1 / len(shares)), answers.argmax()
    judged = torch.where(seen & (numbers >= JUDGED), each, torch.inf)
    worst = int(judged.argmin())
    return {
        "agreement": float(each[seen].mean()),
        "worst_class": {"class": worst, "agreement": float(judged[worst])} if judged[worst] < torch.inf else None,
        "ece": float(total(lambda s: torch.tensor(metrics.calibration_error(s.student, s.teacher.argmax(1))))),
        "coverage": {
            "seen": int(seen.sum()),
            "missing": (seen & (answers == 0)).nonzero().flatten().tolist(),
            "largest": {"class": int(often), "share": float(answers[often]), "teacher": float(shares[often])},
        },
        "sources": [s.entry() for s in sources],
    }


def certify(done: Finished) -> dict[str, Any]:
    """The certificate of a finished distillation. Segmentation has none, so nothing is returned.

    It has random draws of its own, so a run's other results are the same with it and without it.
    """
    plan, engine = done.plan, done.engine
    if engine.task.name != "classification" or done.images is None:
        return {}
    teacher = copy.deepcopy(plan.inputs.given.teacher).eval().requires_grad_(False)
    without_probes(teacher)
    probe = Probe(teacher, bn=True)
    draws = Draws(stream(engine.seed, "certificate"), engine.device, engine.dtype, 1, 0, teacher.num_classes)
    own, collected = done.images.to(engine.dtype), plan.inputs.collected
    n, optimise = _affordable(teacher, done.network, max(LEAST, SHARE * done.outcome.flops))
    images = {
        "white noise": probe_images.noise_around(teacher, draws, n),
        "blotches": probe_images.blotches(teacher, draws, n),
        "untrained generators": probe_images.of_untrained_generators(teacher, draws, n),
        "optimised pixels": probe_images.optimised(probe, draws, n // 2) if optimise else None,
        "mixed": probe_images.mixed(own[:n], draws),
        "warped": probe_images.warped(own[:n], draws),
        "collected": None if collected is None else _some(collected.pixels, n, draws),
    }
    sources = [_source(name, probe, done.network, x) for name, x in images.items() if x is not None]
    found = summarise(sources)
    found["left_out"] = [name for name, x in images.items() if x is None and name != "collected"]
    # How much the run's own images differ from each other, relative to the data: near 0 if a generator makes one image.
    found["variation"] = float((own.std(0) / teacher.std).mean())
    kind, normal = output_kind(sources[0].teacher), normalisation_check(teacher)
    found["teacher"] = {"output": kind, "normalisation": {key: normal[key] for key in ("verdict", "why")}}
    return {"certificate": found}


def _affordable(teacher: Network, student: Network, operations: float) -> tuple[int, bool]:
    """How many images each source may have, and whether a source of optimised ones is affordable."""
    t, s = (count(network, network.channels, network.image_size).flops for network in (teacher, student))
    looking = 7 * (t + s)
    optimising = 3 * t * probe_images.OPTIMISER_STEPS // 2  # of half as many images
    with_them = operations / max(looking + optimising, 1)
    if with_them >= FEWEST:
        return int(min(with_them, IMAGES)), True
    return int(min(max(operations / max(looking, 1), FEWEST), IMAGES)), False


def _some(pixels: Tensor, n: int, draws: Draws) -> Tensor:
    chosen = draws.integers(len(pixels), min(n, len(pixels)))
    return to_float(pixels[chosen.cpu()], draws.dtype).to(draws.device)


def _source(name: str, probe: Probe, student: Network, images: Tensor) -> Source:
    logits, distances = [], []
    with torch.no_grad():
        for part in images.tensor_split(-(-len(images) // BATCH)):
            seen = probe(part, stats=True)
            logits.append(seen.logits.float().cpu())
            distances += [float(channel_divergence(m).clamp_max(FARTHEST).mean()) for m in seen.moments]
    distance = sum(distances) / len(distances) if distances else None
    return Source(name, torch.cat(logits), predict(student, images), distance)
