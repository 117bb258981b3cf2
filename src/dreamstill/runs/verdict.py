"""Whether a student is fit for use, in a word, with the reasons and what to do next.

With a labelled set the measured score decides. Without one the certificate and the run's own records decide. They can
show that a student is not a copy of its teacher, but not that it is one. docs/report.md describes the runs behind the
numbers here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dreamstill.runs.duration import duration

Word = Literal["usable", "doubtful", "not a copy of its teacher"]
USABLE: Word = "usable"
DOUBTFUL: Word = "doubtful"
NO_COPY: Word = "not a copy of its teacher"

# Measured: the student's score over the teacher's, both less that of guessing.
KEPT, LOST = 0.85, 0.6
# The certificate's agreement (docs/report.md has its figures over some runs).
COPIED, STRANGE = 0.65, 0.3
FEW_STEPS, ENOUGH_STEPS = 600, 2000  # of the student
FALLING = 0.2  # of the student's loss, from the last fifth of the run but one to the last
ALIKE = 0.02  # a pixel's deviation from image to image, in standard deviations of the data
CROWDED = 0.5  # share of one class
MORE_CROWDED = 0.2  # excess of that share over the teacher's
DULL = 0.95  # share of one class in the teacher's answers to images of every kind

Rows = Mapping[int, Mapping[str, float]]


class Reason(NamedTuple):
    """Something that speaks against a student, and what to do about it."""

    word: Word  # the best verdict that it leaves possible
    text: str
    next: str = ""


def judge(summary: Mapping[str, Any], rows: Rows, out: Path) -> dict[str, Any]:
    """The verdict of a finished distillation.

    Args:
        summary: of the run, ``certificate`` included where there is one.
        rows: of ``metrics.csv``.
        out: the run folder.

    Returns:
        ``word``, ``reasons`` (sentences, the gravest first) and ``next``, a command.
    """
    again = f"dreamstill distill --config {shlex.quote(str(out / 'config.yaml'))}"
    longer = f"{again} --steps {_more_steps(summary)} --out {shlex.quote(f'{out}-longer')}"
    told = f"{again} --mean '[MEAN]' --std '[STD]' --out {shlex.quote(f'{out}-again')}"
    measured = _measured(summary, longer, told)
    doubts = [*_teacher(summary, told), *_steps(summary, longer), *_images(summary, longer), *_loss(rows, longer)]
    if measured is None:
        doubts += _certificate(summary, longer)
        unmeasured = "its accuracy was not measured: no labelled images were given"
        score = f"dreamstill evaluate {shlex.quote(str(out))} --data LABELLED_IMAGES"
        best = DOUBTFUL if "certificate" not in summary else USABLE
        doubts.append(Reason(best, unmeasured, score))
    else:
        # The measured score outweighs every other sign. The signs may explain it.
        doubts = [measured, *(d._replace(word=measured.word) for d in doubts)]
        if measured.word == USABLE:
            load = f"import dreamstill; print(dreamstill.load_student({json.dumps(str(out))}))"
            doubts[0] = measured._replace(next=f"python -c {shlex.quote(load)}")
    doubts.sort(key=lambda reason: (NO_COPY, DOUBTFUL, USABLE).index(reason.word))
    first = next((d.next for d in doubts if d.next), longer)
    return {"word": doubts[0].word, "reasons": [d.text for d in doubts], "next": first}


def _more_steps(summary: Mapping[str, Any]) -> int:
    return max(ENOUGH_STEPS, 3 * int(summary["steps"]))


# ---------------------------------------------------------------- with labels


def _measured(summary: Mapping[str, Any], longer: str, told: str) -> Reason | None:
    """What the labelled set says; None without one."""
    student, teacher = summary["student"], summary["teacher"]
    key, name = ("miou", "mean IoU") if "miou" in student else ("accuracy", "accuracy")
    if key not in student or key not in teacher:
        return None
    guessing = 0.0 if key == "miou" else 1 / len(summary["confusion"])
    mine, theirs = student[key], teacher[key]
    said = f"its measured {name} is {mine:.1%} and its teacher's {theirs:.1%}"
    if theirs <= 1.5 * guessing:
        return Reason(DOUBTFUL, f"{said}, which is near guessing ({guessing:.1%}): there is little to copy", told)
    kept = (mine - guessing) / (theirs - guessing)
    if kept >= KEPT:
        return Reason(USABLE, said)
    word = DOUBTFUL if kept >= LOST else NO_COPY
    return Reason(word, f"{said}: above guessing it keeps {max(kept, 0):.0%} of it", longer)


# ---------------------------------------------------------------- without


def _certificate(summary: Mapping[str, Any], longer: str) -> Iterator[Reason]:
    found = summary.get("certificate")
    if found is None:
        return
    share = found["agreement"]
    if share < COPIED:
        word = NO_COPY if share < STRANGE else DOUBTFUL
        yield Reason(word, f"on images that it never learned from it agrees with its teacher on {share:.0%}", longer)
    largest, missing = found["coverage"]["largest"], found["coverage"]["missing"]
    if largest["share"] > max(CROWDED, largest["teacher"] + MORE_CROWDED):
        text = f"it answers class {largest['class']} to {largest['share']:.0%} of those images, its teacher to "
        yield Reason(NO_COPY, f"{text}{largest['teacher']:.0%}", longer)
    if missing:
        word = NO_COPY if 2 * len(missing) >= found["coverage"]["seen"] else DOUBTFUL
        classes = f"class{'' if len(missing) == 1 else 'es'} {', '.join(map(str, missing[:10]))}"
        yield Reason(word, f"it never answers {classes}{', ...' if len(missing) > 10 else ''}", longer)


def _teacher(summary: Mapping[str, Any], told: str) -> Iterator[Reason]:
    """What is wrong with the teacher, as far as images made without data show it."""
    found = summary.get("certificate")
    if found is None:
        return
    k = len(summary["class_histogram"])
    output, normal = found["teacher"]["output"], found["teacher"]["normalisation"]
    if output != "logits":
        yield Reason(NO_COPY, f"the teacher returns {output.replace('_', '-')}, expected logits: take off its softmax")
    if all(source["largest_share"] > DULL for source in found["sources"]):
        yield Reason(DOUBTFUL, "the teacher gives nearly all images of every kind the same class", told)
    elif 2 * found["coverage"]["seen"] < k:
        text = f"the teacher sees {found['coverage']['seen']} of its {k} classes in the images that it was tried on"
        yield Reason(DOUBTFUL, text, told)
    if max(source["confidence"] for source in found["sources"]) < 1.5 / k:
        yield Reason(DOUBTFUL, "the teacher is as unsure of every image as one that only guesses", told)
    if normal["verdict"] == "implausible":
        yield Reason(DOUBTFUL, f"the teacher's mean and std look wrong: {normal['why']}", told)


def _steps(summary: Mapping[str, Any], longer: str) -> Iterator[Reason]:
    steps = summary["steps"]
    if steps >= FEW_STEPS:
        return
    each = summary["seconds"]["training"] / max(steps, 1)
    yield Reason(
        DOUBTFUL,
        f"{steps:,} student steps are too few: {ENOUGH_STEPS:,} are the least to try, about "
        f"{duration(ENOUGH_STEPS * each)} at this run's speed",
        longer,
    )


def _images(summary: Mapping[str, Any], longer: str) -> Iterator[Reason]:
    """What is wrong with the images that the student learned from."""
    counts = summary["class_histogram"]
    if missing := [i for i, n in enumerate(counts) if n == 0]:
        classes = f"class{'' if len(missing) == 1 else 'es'} {', '.join(map(str, missing[:10]))}"
        yield Reason(
            DOUBTFUL,
            f"the images that it learned from show nothing of {classes}{', ...' if len(missing) > 10 else ''}",
            longer,
        )
    elif max(counts) > CROWDED * sum(counts):
        share = max(counts) / sum(counts)
        yield Reason(DOUBTFUL, f"{share:.0%} of the images that it learned from are of one class", longer)
    variation = summary.get("certificate", {}).get("variation")
    if variation is not None and variation < ALIKE:
        yield Reason(NO_COPY, "the images that it learned from are all but the same image", longer)


def _loss(rows: Rows, longer: str) -> Iterator[Reason]:
    """Whether the student's loss still falls: the last fifth of the run against the fifth before."""
    values = [v for _, row in sorted(rows.items()) if (v := _student_loss(row)) is not None]
    fifth = len(values) // 5
    if fifth < 2:
        return
    before, last = sum(values[-2 * fifth : -fifth]) / fifth, sum(values[-fifth:]) / fifth
    if 0 <= last < (1 - FALLING) * before:
        fall = 1 - last / before
        yield Reason(DOUBTFUL, f"its loss still fell by {fall:.0%} in the last fifth of the run", longer)


def _student_loss(row: Mapping[str, float]) -> float | None:
    terms = [v for name, v in row.items() if name.startswith("student/")]
    return sum(terms) if terms and sum(terms) == sum(terms) else None
