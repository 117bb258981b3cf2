"""What the page says of the verdict, and of the certificate behind it."""

from __future__ import annotations

from typing import Any

from dreamstill.report.numbers import percent

Summary = dict[str, Any]


def verdict(summary: Summary) -> dict[str, str] | None:
    """The head's words; None of a run of an earlier version."""
    found = summary.get("verdict")
    if found is None:
        return None
    reason = found["reasons"][0]
    return {
        "word": f"{found['word'][:1].upper()}{found['word'][1:]}:",
        "reason": f"{reason[:1].upper()}{reason[1:]}.",
        "next": found["next"],
    }


def rows(summary: Summary) -> list[tuple[str, str, str]]:
    """Lines of the section on trust: the other reasons of the verdict, and the certificate's figures."""
    lines: list[tuple[str, str, str]] = []
    if others := summary.get("verdict", {}).get("reasons", [])[1:]:
        said = "; ".join(others)
        lines.append(("What else was seen", "", f"{said[:1].upper()}{said[1:]}."))
    found = summary.get("certificate")
    if found is None:
        if why := summary.get("certificate_error"):
            lines.append(("Certificate", "none", f"It could not be made: {why}."))
        elif summary.get("task") == "segmentation":
            lines.append(("Certificate", "none", "There is none for networks that give maps."))
        return lines
    text = (
        f"On images that the student never learned from: the mean over the {found['coverage']['seen']:,} classes that "
        "the teacher sees in them. It orders students; it is not their accuracy, for which no range is known."
    )
    lines.append(("Certificate: agreement", percent(found["agreement"]), text))
    if (worst := found["worst_class"]) is not None:
        lines.append(("Its worst class", percent(worst["agreement"]), f"Class {_name(summary, worst['class'])}."))
    text = "How far the student's confidence is from how often it agrees with the teacher, on the same images."
    lines.append(("Calibration against the teacher", percent(found["ece"]), text))
    largest, missing = found["coverage"]["largest"], found["coverage"]["missing"]
    text = (
        f"Of the student's answers, class {_name(summary, largest['class'])}; of its teacher's "
        f"{percent(largest['teacher'])}. Classes that it never answers: "
        f"{', '.join(_name(summary, i) for i in missing[:10]) or 'none'}{', ...' if len(missing) > 10 else ''}."
    )
    return [*lines, ("Largest class", percent(largest["share"]), text)]


def _name(summary: Summary, i: int) -> str:
    names = summary.get("classes")
    return str(names[i]) if names else str(i)


def sources(summary: Summary) -> list[tuple[str, ...]]:
    """The table of the certificate's images; empty without one."""
    found = summary.get("certificate")
    if found is None:
        return []
    total = sum(source["weight"] for source in found["sources"]) or 1.0
    table: list[tuple[str, ...]] = []
    for source in found["sources"]:
        distance = source["bn_distance"]
        table.append(
            (
                f"{source['images']:,} {source['name']}",
                percent(source["weight"] / total),
                percent(source["agreement"]),
                percent(source["ece"]),
                percent(source["confidence"]),
                "–" if distance is None else f"{distance:.2f}",
            )
        )
    return table


def notes(summary: Summary) -> list[tuple[str, str]]:
    """What was taken over in loading the networks, and what looked wrong about them."""
    texts = [(note, note.removeprefix("warning: ")) for note in summary.get("notes", ())]
    return [("Taken over" if text == note else "Warning", text) for note, text in texts]
