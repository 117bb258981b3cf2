"""One offline page about a run: what came out, how far it can be trusted, and what it cost."""

from __future__ import annotations

import base64
import json
import struct
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, UndefinedError
from markupsafe import Markup

from dreamstill.errors import InputError, first_line
from dreamstill.files import atomic_write
from dreamstill.report import certificates, charts, dense, plots, sections
from dreamstill.runs.config_file import read_config
from dreamstill.runs.manifest import MANIFEST_SCHEMA
from dreamstill.runs.metrics_log import read_metrics
from dreamstill.runs.summary import SUMMARY_SCHEMA

# What the page's parts raise where a key is missing or has another type.
MISSHAPEN = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError, struct.error,
    UndefinedError,
)  # fmt: skip


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from what a run left in its folder, and return where it is.

    The page is one file and asks nothing of the network. It is made of ``summary.json``, ``manifest.json``,
    ``config.yaml``, ``metrics.csv``, ``samples.png`` and ``comparison.png``. The last three may be missing, and so may
    what a run without labelled images or without a teacher does not know: those parts are left out.

    Raises:
        InputError: one of the first three is missing or cannot be read, or is of another schema.
    """
    folder = Path(folder)
    left = read_run_files(folder)
    try:
        text = render("report.html.j2", _page(left.summary, left.manifest, left.config, left.rows, folder))
    except MISSHAPEN as error:  # a file that is not a run's own fails in as many ways as it has keys
        raise misshapen(folder, error) from error
    path = folder / "report.html"
    atomic_write(path, text)
    return path


class Left(NamedTuple):
    """What a finished run left in its folder."""

    summary: dict[str, Any]
    manifest: dict[str, Any]
    config: dict[str, Any]
    rows: charts.Rows


def misshapen(folder: Path, error: Exception) -> InputError:
    """What is said of files that no page can be made of."""
    return InputError(
        f"no report can be made of the files in {folder} ({type(error).__name__}: {first_line(error)}): "
        "summary.json, manifest.json or a picture is not as a run leaves it"
    )


def read_run_files(folder: Path) -> Left:
    """The files of a finished run that pages are made of.

    Raises:
        InputError: one is missing or cannot be read, or is of another schema.
    """
    summary, manifest = _read_json(folder / "summary.json"), _read_json(folder / "manifest.json")
    files = {"summary.json": (summary, SUMMARY_SCHEMA), "manifest.json": (manifest, MANIFEST_SCHEMA)}
    for name, (content, schema) in files.items():
        if content.get("schema") != schema:
            raise InputError(
                f"{folder / name} is of schema {content.get('schema')} and this version of dreamstill reads {schema}: "
                "write the report with the version that made the run"
            )
    if not (folder / "config.yaml").exists():
        raise InputError(f"{folder} holds no config.yaml: give the folder of a finished run")
    metrics = folder / "metrics.csv"
    rows = read_metrics(metrics) if metrics.exists() else {}
    return Left(summary, manifest, read_config(folder / "config.yaml"), rows)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path.parent} holds no {path.name}: give the folder of a finished run") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): the report is made of it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}: expected an object, as a run writes it")
    return content


def _page(
    summary: dict[str, Any], manifest: dict[str, Any], config: dict[str, Any], rows: charts.Rows, folder: Path
) -> dict[str, Any]:
    """Everything that the template shows; a section that is None is left out."""
    return {
        "head": sections.head(summary),
        "result": sections.result(summary, folder),
        "trust": sections.trust(summary) if "teacher" in summary else None,
        "sources": certificates.sources(summary),
        "curves": charts.learning_curves(rows, summary),
        "terms": charts.loss_terms(rows),
        "undrawn": plots.undrawn(),
        "task": summary.get("task", "classification"),
        "compared": picture(folder / "comparison.png"),
        "iou": dense.class_table(summary),
        "samples": picture(folder / "samples.png"),
        "images_are": summary.get("images_are", "fresh"),
        "synthesised": charts.histogram(summary),
        "classes": charts.classes(summary),
        "cost": sections.cost(summary),
        "settings": sections.settings(config, manifest),
        "version": manifest.get("versions", {}).get("dreamstill", ""),
    }


def picture(path: Path) -> dict[str, Any] | None:
    """A sheet of images as a data URI with its size, so that nothing on the page jumps."""
    if not path.exists():
        return None
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    return {"uri": "data:image/png;base64," + base64.b64encode(content).decode(), "width": width, "height": height}


def render(template: str, page: dict[str, Any]) -> str:
    """A page of this package's templates, in one file."""
    here = files("dreamstill.report")
    css = Markup((here / "report.css").read_text(encoding="utf-8"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((here / template).read_text(encoding="utf-8")).render(page, css=css)
