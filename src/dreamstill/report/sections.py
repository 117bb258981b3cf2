"""What each section of the page says, in words and formatted numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dreamstill.report import certificates
from dreamstill.report.numbers import count, listing, percent, points, sentence_case, times, unit
from dreamstill.runs.duration import duration

Summary = dict[str, Any]
_HEADLINES = {"accuracy": "accuracy", "miou": "mean IoU"}


# ---------------------------------------------------------------- head and result


def head(summary: Summary) -> dict[str, Any]:
    """What happened, in a sentence and four figures."""
    student, teacher = summary["student"], summary.get("teacher")
    took = (duration(summary["wall_seconds"]), "time", _count(summary["steps"], "step"))
    if teacher is None:
        figures = [(count(student["params"]), "parameters", ""), (unit(student["flops"], "FLOP"), "an image", ""), took]
        for key, name in _HEADLINES.items():
            if key in student:
                figures.insert(0, (percent(student[key]), name, summary.get("data", "")))
        network = f"{student['name']}, a network of {count(student['params'])} parameters,"
        sentence = f"{network} was trained on labelled images."
        about = {"title": student["name"], "sentence": sentence, "figures": figures, "square": None, "verdict": None}
        return about | _origin(summary)
    known = (_quality(student, teacher), _agreement(summary), _size(student, teacher))
    return {
        "title": f"{teacher['name']} → {student['name']}",
        "sentence": _sentence(summary, student, teacher),
        "figures": [*filter(None, known), took],
        "square": _squares(student, teacher),
        "verdict": certificates.verdict(summary),
    } | _origin(summary)


def _origin(summary: Summary) -> dict[str, str]:
    return {"method": summary["method"], "paper": summary.get("paper", ""), "command": summary["command"]}


def _sentence(summary: Summary, student: Summary, teacher: Summary) -> str:
    mine = f"{student['name']} ({count(student['params'])} parameters)"
    theirs = f"{teacher['name']} ({count(teacher['params'])})"
    size = _relative(student["params"], teacher["params"])
    how = f"is {size} {'as' if size == 'as large' else 'than'} its" if size else "has the"
    outside = summary["outside_information"]
    images = "real" if summary.get("images_are") == "real" else "synthetic"
    lessons = f"It learnt from {images} images in {_count(summary['steps'], 'step')}"
    used = f"with outside information: {listing(outside)}" if outside else "without any of the data behind the teacher"
    return f"The student {mine} {how} teacher {theirs}. {lessons}, {used}."


def _relative(mine: float, theirs: float) -> str:
    if mine == theirs:
        return "as large"
    if not mine or not theirs:
        return ""
    if mine < theirs:
        return f"{times(theirs, mine)} times smaller" if theirs / mine >= 1.05 else "slightly smaller"
    return f"{times(mine, theirs)} times larger" if mine / theirs >= 1.05 else "slightly larger"


def kind(summary: Summary) -> str:
    """What images a run shows and counts."""
    learnt = "images that the student learnt from"
    kinds = {"fresh": "fresh synthetic images", "stored": f"synthetic {learnt}", "real": f"real {learnt}"}
    return kinds[summary.get("images_are", "fresh")]


def _images(summary: Summary) -> str:
    return "its training" if summary.get("images_are") == "real" else "synthetic"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _quality(student: Summary, teacher: Summary) -> tuple[str, str, str] | None:
    key = next((k for k in _HEADLINES if k in student), None)
    if key is None:
        return None
    beside = f"teacher {percent(teacher[key])}" if key in teacher else ""
    return percent(student[key]), f"{_HEADLINES[key]} of the student", beside


def _agreement(summary: Summary) -> tuple[str, str, str] | None:
    if "agreement" in summary:
        return percent(summary["agreement"]), "agreement with the teacher", "on real images"
    if found := summary.get("certificate"):
        return percent(found["agreement"]), "agreement with the teacher", "on images that it never learned from"
    return None


def _size(student: Summary, teacher: Summary) -> tuple[str, str, str] | None:
    mine, theirs = student["params"], teacher["params"]
    if not mine or not theirs:  # networks that keep everything in buffers
        return None
    fewer = ""
    if student["flops"] and teacher["flops"] > student["flops"]:
        fewer = f"{times(teacher['flops'], student['flops'])}× fewer operations"
    return f"{times(max(mine, theirs), min(mine, theirs))}×", "smaller" if mine <= theirs else "larger", fewer


def _squares(student: Summary, teacher: Summary) -> dict[str, str] | None:
    """Two squares whose areas are as the parameters: each one's side as a share of the larger one's."""
    mine, theirs = student["params"], teacher["params"]
    if not mine or not theirs:
        return None
    return {
        "teacher": count(theirs),
        "student": count(mine),
        "teacher_side": f"{(theirs / max(mine, theirs)) ** 0.5:.4f}",
        "student_side": f"{(mine / max(mine, theirs)) ** 0.5:.4f}",
    }


def result(summary: Summary, folder: Path) -> dict[str, Any]:
    """The table of both networks (of one, after supervised training), and the files that were delivered."""
    student, teacher = summary["student"], summary.get("teacher")
    rows = [("Network", *_cells(student, teacher, "name", str), "")]
    for key, name, form in (
        ("params", "Parameters", count),
        ("flops", "Operations an image", _flops),
        ("bytes", "Size of the weights", _bytes),
    ):
        ratio = "" if teacher is None else _relative(student[key], teacher[key])
        rows.append((name, *_cells(student, teacher, key, form), ratio))
    for key, name in (
        ("accuracy", "Accuracy"),
        ("accuracy_last", "Accuracy of the last step, not averaged"),
        ("miou", "Mean intersection over union (mIoU)"),
        ("miou_last", "Mean IoU of the last step, not averaged"),
        ("pixel_accuracy", "Pixel accuracy"),
        ("ece", "Calibration error (ECE)"),
    ):
        if key in student or key in (teacher or {}):
            both = teacher is not None and key in student and key in teacher
            difference = points(student[key] - teacher[key]) if both and teacher is not None else ""
            rows.append((name, *_cells(student, teacher, key, percent), difference))
    for key, name in _HEADLINES.items():
        if f"relative_{key}" in summary:
            rows.append((f"Relative {name}, student over teacher", "", percent(summary[f"relative_{key}"]), ""))
    return {
        "columns": [] if teacher is None else ["Teacher", "Student", "Difference"],
        "rows": [r[:1] + r[2:3] if teacher is None else r for r in rows],
        "data": summary.get("data"),
        "selection": sentence_case(summary["selection"]) if teacher is None else None,  # else said under trust
        "files": _files(summary, folder),
    }


def _cells(student: Summary, teacher: Summary | None, key: str, form: Any) -> tuple[str, str]:
    """Teacher's and student's cell; a dash where it was not measured."""
    return tuple(form(n[key]) if n is not None and key in n else "–" for n in (teacher, student))  # type: ignore[return-value]


def _flops(value: float) -> str:
    return unit(value, "FLOP")


def _bytes(value: float) -> str:
    return unit(value, "B")


def _files(summary: Summary, folder: Path) -> list[tuple[str, str]]:
    found = [(n, "PyTorch weights with their description") for n in ("student.safetensors", "model.safetensors")]
    found.append(("transfer.parquet", "the images with the teacher's logits, for further students"))
    files = [
        (name, f"{text}, {_bytes((folder / name).stat().st_size)}") for name, text in found if (folder / name).exists()
    ]
    if onnx := summary.get("onnx"):
        files.append((onnx["file"], f"ONNX, checked: differs from PyTorch by {onnx['max_difference']:.1e} at most"))
    return files


# ---------------------------------------------------------------- trust


def trust(summary: Summary) -> list[tuple[str, str, str]]:
    """How far the student can be trusted: what was measured, its value, and what it means."""
    rows = []
    of = " of the pixels" if summary.get("task") == "segmentation" else ""
    if "agreement" in summary:
        on = summary.get("data", "real images")
        rows.append(
            ("Agreement on real images", percent(summary["agreement"]), f"Share{of} on which both say the same ({on}).")
        )
    else:
        rows.append(
            (
                "Agreement on real images",
                "not measured",
                "No labelled images were given, so the student's accuracy is not known. Even a few hundred would tell: "
                "dreamstill evaluate.",
            )
        )
    rows += certificates.rows(summary)
    if counts := summary.get("class_histogram"):
        seen = f"{sum(c > 0 for c in counts):,} of {len(counts):,}"
        rows.append((f"Classes in the {_images(summary)} images", seen, "As the teacher sees them."))
    if preset := summary.get("preset"):
        worst, names = preset["worst"], summary.get("classes")
        name = names[worst["class"]] if names else f"class {worst['class']}"
        text = (
            f"How often the teacher sees the class that the generator was asked for, in {preset['images']:,} fresh "
            f"images; least often for {name}, {percent(worst['share'])}."
        )
        rows.append(("Label fidelity", percent(preset["share"]), text))
    if made := summary.get("transfer_set"):
        shares = [n / max(sum(made["target_classes"]), 1) for n in made["target_classes"]]
        text = (
            f"How often the teacher sees the class that its soft target asks for, in {made['images']:,} images; its "
            f"mean certainty is {percent(made['confidence'])}. The targets' classes have shares from "
            f"{percent(min(shares))} to {percent(max(shares))}, their entropy is {made['target_entropy']:.2f} of at "
            f"most {made['target_entropy_at_most']:.2f} nats."
        )
        rows.append(("Soft targets met", percent(made["agreement"]), text))
    if left_out := summary.get("bn_left_out"):
        text = f"Of {listing(left_out)}: a batch gives these layers of the teacher only one value a channel and image."
        rows.append(("Batch-norm statistics not used", str(len(left_out)), text))
    rows += [(name, "", sentence_case(text)) for name, text in certificates.notes(summary)]
    if "agreement_synthetic" in summary:
        text = f"On {kind(summary)}. Images that are all alike are easy to agree on: no measure of the student."
        rows.append((f"Agreement on {_images(summary)} images", percent(summary["agreement_synthetic"]), text))
    rows.append(("Which weights were delivered", "", sentence_case(summary["selection"])))
    outside = summary["outside_information"]
    text = sentence_case(listing(outside)) if outside else "Nothing but the teacher itself was used."
    rows.append(("Outside information", "" if outside else "none", text))
    return rows


# ---------------------------------------------------------------- cost and settings


def cost(summary: Summary) -> dict[str, Any]:
    """Where the time went, and what the machine did in it."""
    seconds = {k: v for k, v in summary["seconds"].items() if v > 0}
    total = sum(seconds.values()) or 1.0
    parts = [
        {"name": k, "time": duration(v), "share": percent(v / total, 0), "width": f"{100 * v / total:.2f}"}
        for k, v in seconds.items()
    ]
    facts = [
        ("Wall time", duration(summary["wall_seconds"])),
        ("Student steps" if "teacher" in summary else "Steps", f"{summary['steps']:,}"),
    ]
    for key, name in (("generator_steps", "Generator steps"), ("images_synthesised", "Images synthesised")):
        if summary.get(key):
            facts.append((name, f"{summary[key]:,}"))
    facts.append(("Operations in all", unit(summary["total_flops"], "FLOP")))
    if training := summary["seconds"].get("training"):
        facts.append(("Achieved while training", unit(summary["total_flops"] / training, "FLOP/s")))
    compiled = "compiled" if summary["compile"] else "not compiled"
    facts.append(("Peak memory", _bytes(summary["peak_memory_bytes"])))
    facts.append(("Device", f"{summary['device']}, precision {summary['precision']}, {compiled}"))
    if summary.get("processes", 1) > 1:
        facts.append(("Processes", f"{summary['processes']}"))
    return {"parts": parts, "facts": facts + _machine(summary["machine"])}


def _machine(machine: Summary) -> list[tuple[str, str]]:
    cpu = f"{machine['cpu']}, {_count(machine['cores'], 'core')}, {_count(machine['threads'], 'thread')} used"
    facts = [("Processor", cpu), ("Memory of the machine", _bytes(machine["memory_bytes"]))]
    if machine.get("gpu"):
        facts.append(("Accelerator", machine["gpu"]))
    return [*facts, ("System", f"{machine['system']}, torch {machine['torch']}")]


def settings(config: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """Everything needed to make the run again."""
    facts = [("Seed", manifest.get("seed")), ("Commit", manifest.get("commit"))]
    facts += [("Teacher's file", manifest.get("teacher_file")), ("Teacher's SHA-256", manifest.get("teacher_sha256"))]
    return {
        "config": list(flat(config)),
        "command": manifest.get("command", ""),
        "facts": [(name, str(value)) for name, value in facts if value is not None],
        "versions": [(k, str(v)) for k, v in manifest.get("versions", {}).items()],
    }


def flat(config: dict[str, Any], above: str = "") -> Any:
    """Settings as pairs, nested ones by their dotted name."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value, default=str)
