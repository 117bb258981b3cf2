"""``README.md``: the model card of a run, with the metadata that the Hugging Face hub reads.

Names of networks, classes and files come from others. In the metadata they are YAML's strings, in the text everything
that Markdown or HTML could take for a sign of its own is escaped, and they enter no code block.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from dreamstill.files import atomic_write
from dreamstill.report.numbers import count, percent, unit
from dreamstill.runs.config_file import read_config
from dreamstill.runs.duration import duration

Summary = dict[str, Any]
_LONGEST, _MOST_CLASSES = 100, 50
# What begins markup, HTML, a mention or a formula; and what makes a bare address a link.
_SIGNS = re.compile(r"([\\`*_\[\]<>|#&~$@]|:(?=/)|\.(?=[^\W\d]))")
_LICENSE = "# license: the terms of the teacher and of what it was trained on decide; write the identifier here\n"


def write_card(folder: Path) -> Path:
    """Write ``README.md`` from what a distillation left in its folder, and return where it is."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    config = read_config(folder / "config.yaml")
    with safe_open(folder / "student.safetensors", "pt") as file:
        about = json.loads(file.metadata()["dreamstill"])
    metadata = yaml.safe_dump(_metadata(summary, config), sort_keys=False, allow_unicode=False, width=1000)
    parts = [
        f"---\n{metadata}{_LICENSE}---\n",
        f"# {escaped(summary['student']['name'])}\n",
        _opening(summary),
        "## Figures\n",
        "\n".join(_figures(summary, folder)) + "\n",
        "## Use\n",
        _use(summary, about),
        *_classes(about),
        "## Where it comes from\n",
        "\n".join(_origin(summary, manifest, config)) + "\n",
        "## License\n",
        "Not chosen yet. The terms of the teacher, and of the data behind it, bind this model too. Write the license "
        "here and in the metadata above before you share it.\n",
    ]
    path = folder / "README.md"
    atomic_write(path, "\n".join(parts))
    return path


def escaped(text: Any, longest: int = _LONGEST) -> str:
    """Somebody's words inside a line of Markdown: one line, no markup, no HTML, no link."""
    # Controls, line ends, invisible signs and those that turn the direction of a text.
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text))
    plain = " ".join(plain.split())
    cut = plain if len(plain) <= longest else plain[: longest - 1] + "…"
    return _SIGNS.sub(r"\\\1", cut) or "(no name)"


def _metadata(summary: Summary, config: dict[str, Any]) -> dict[str, Any]:
    dense = summary.get("task") == "segmentation"
    found: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "image-segmentation" if dense else "image-classification",
        "tags": ["dreamstill", "knowledge-distillation", summary["method"]],
    }
    teacher = str(summary["teacher"]["name"])
    if re.fullmatch(r"hf:[\w.-]+/[\w.-]+", teacher) and config.get("teacher_checkpoint") is None:
        found["base_model"] = teacher.removeprefix("hf:")
    key, _ = _headline(summary)
    if key is not None:
        metric = "accuracy" if key == "accuracy" else "mean_iou"
        result = {
            "task": {"type": found["pipeline_tag"]},
            "dataset": {"name": summary["data"], "type": summary["data"].split(",")[0]},
            "metrics": [{"type": metric, "value": summary["student"][key]}],
        }
        found["model-index"] = [{"name": summary["student"]["name"], "results": [result]}]
        found["metrics"] = [metric]
    return found


def _headline(summary: Summary) -> tuple[str | None, str]:
    for key, name in (("miou", "mean IoU"), ("accuracy", "accuracy")):
        if key in summary["student"] and key in summary["teacher"]:
            return key, name
    return None, ""


def _opening(summary: Summary) -> str:
    student, teacher, verdict = summary["student"], summary["teacher"], summary["verdict"]
    text = (
        f"A network of {count(student['params'])} parameters, distilled from {escaped(teacher['name'])} "
        f"({count(teacher['params'])} parameters) by the method {escaped(summary['method'])} with dreamstill.\n\n"
        f"**{verdict['word'].capitalize()}**: {_sentence(verdict['reasons'][0])}.\n"
    )
    if more := verdict["reasons"][1:]:
        text += "\n" + "\n".join(f"- {_sentence(reason)}" for reason in more) + "\n"
    return text


def _sentence(text: Any) -> str:
    return escaped(text, 1000)


def _figures(summary: Summary, folder: Path) -> Iterator[str]:
    student, teacher = summary["student"], summary["teacher"]
    yield "| | teacher | student | measured on |"
    yield "|---|---|---|---|"
    key, name = _headline(summary)
    if key is not None:
        row = f"{percent(teacher[key])} | {percent(student[key])}"
        yield f"| {name} | {row} | {escaped(summary['data'])} |"
    if "agreement" in summary:
        yield f"| agreement with the teacher | | {percent(summary['agreement'])} | {escaped(summary['data'])} |"
    if "certificate" in summary:
        share = summary["certificate"]["agreement"]
        where = "images that it never learned from, made without data; no measure of accuracy"
        yield f"| agreement with the teacher | | {percent(share)} | {where} |"
    yield f"| parameters | {teacher['params']:,} | {student['params']:,} | |"
    yield f"| operations an image | {unit(teacher['flops'], 'FLOP')} | {unit(student['flops'], 'FLOP')} | |"
    yield f"| size | {unit(teacher['bytes'], 'B')} | {unit(student['bytes'], 'B')} | in float32 |"


def _use(summary: Summary, about: dict[str, Any]) -> str:
    first = "" if "onnx" in summary else "First write the ONNX file: `dreamstill export` with this folder.\n\n"
    channels, (height, width) = about["channels"], about["image_size"]
    takes = f"Images are {channels} x {height} x {width} in [0, 1]; mean and std are inside the file.\n\n"
    code = snippet(summary.get("task", "classification")) if channels in (1, 3) else ""
    block = (
        f"```python\n{code}```\n\n" if code else f"Input `images` (float32, n x {channels} x {height} x {width}).\n\n"
    )
    torch = '```python\nimport dreamstill\n\nstudent = dreamstill.load_student(".")  # this folder\n```\n'
    return f"{first}{takes}With onnxruntime alone:\n\n{block}With PyTorch:\n\n{torch}"


def snippet(task: str) -> str:
    """Code that asks ``student.onnx`` about one photograph."""
    if task == "segmentation":
        asked = (
            "classes_of_pixels = logits[0].argmax(0)\nprint(sorted({names[i] for i in classes_of_pixels.flatten()}))\n"
        )
    else:
        asked = "print(names[logits[0].argmax()])\n"
    return f"""\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("student.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["dreamstill"])
names = about.get("classes") or [str(i) for i in range(about["num_classes"])]
height, width = about["image_size"]

image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("L" if about["channels"] == 1 else "RGB")
image = ImageOps.fit(image, (width, height))
pixels = np.asarray(image, dtype=np.float32).reshape(1, height, width, -1).transpose(0, 3, 1, 2) / 255
(logits,) = session.run(["logits"], {{"images": pixels}})
{asked}"""


def _classes(about: dict[str, Any]) -> list[str]:
    names = about.get("classes")
    if not names:
        return [f"It tells {about['num_classes']} classes apart; their names are not known.\n"]
    shown = ", ".join(escaped(name) for name in names[:_MOST_CLASSES])
    more = f" and {len(names) - _MOST_CLASSES} more (in the file's metadata)" if len(names) > _MOST_CLASSES else ""
    return [f"Classes, in the order of the outputs: {shown}{more}.\n"]


def _origin(summary: Summary, manifest: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    teacher = f"- Teacher: {escaped(summary['teacher']['name'])}"
    sha = manifest.get("teacher_sha256")
    yield f"{teacher}, SHA-256 of its weights {sha}" if sha else teacher
    paper = summary.get("paper")
    yield f"- Method: {escaped(summary['method'])}" + (f" ({escaped(paper)})" if paper else "")
    outside = summary["outside_information"]
    used = "; ".join(_sentence(item) for item in outside) if outside else "nothing"
    yield f"- Used besides the teacher: {used}"
    if "data" in summary:
        yield "- The labelled images of the table were used for the figures alone, not for training"
    took = duration(summary["wall_seconds"])
    yield f"- {summary['steps']:,} student steps in {took}, seed {summary['seed']}; weights: {summary['selection']}"
    version = manifest.get("versions", {}).get("dreamstill", "")
    yield f"- dreamstill {escaped(version)}; `config.yaml` repeats the run, `report.html` shows it"
