"""``dreamstill export``: the student in the form that a deployment wants, checked against the student itself."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamstill.errors import InputError
from dreamstill.files import write_json
from dreamstill.messages import say
from dreamstill.networks.export_int8 import write_int8
from dreamstill.networks.export_int8_program import int8_program_answers, write_int8_program
from dreamstill.networks.export_onnx import export_onnx
from dreamstill.networks.export_openvino import openvino_answers, write_openvino
from dreamstill.networks.export_program import read_program_answers, write_program
from dreamstill.networks.network import Network
from dreamstill.networks.onnx_session import onnx_answers
from dreamstill.networks.parity import TOLERANCE, Answers, parity
from dreamstill.networks.state_dicts import sha256
from dreamstill.runs.config_file import read_run
from dreamstill.runs.delivered import delivered
from dreamstill.runs.machine import machine
from dreamstill.runs.quantised import Quantised, compared_cost
from dreamstill.runs.random_numbers import kept_random_streams
from dreamstill.runs.settings import DistillSettings, ExportSettings

SCHEMA = 1


@dataclass(frozen=True)
class Format:
    """A form of file in float32."""

    suffix: str
    write: Callable[[Network, Path], object]
    read: Callable[[Path], Answers]
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Int8Format:
    """A form of file in 8 bits; ``prepare`` gets a folder for what it needs, and returns what writes files."""

    suffix: str
    prepare: Callable[[Network, Path], Callable[[Path, Tensor], None]]
    read: Callable[[Path], Answers]
    packages: tuple[str, ...]


def _by_onnxruntime(network: Network, folder: Path) -> Callable[[Path, Tensor], None]:
    export_onnx(network, folder / "student.onnx")
    return partial(write_int8, folder / "student.onnx")


def _by_torchao(network: Network, folder: Path) -> Callable[[Path, Tensor], None]:
    return partial(write_int8_program, network)


FORMATS: dict[str, Format | Int8Format] = {
    "onnx": Format(".onnx", export_onnx, onnx_answers, ("onnx", "onnxruntime")),
    "onnx-int8": Int8Format(".int8.onnx", _by_onnxruntime, onnx_answers, ("onnx", "onnxruntime")),
    "pt2": Format(".pt2", write_program, read_program_answers, ()),
    "pt2-int8": Int8Format(".int8.pt2", _by_torchao, int8_program_answers, ("torchao",)),
    "openvino": Format(".xml", write_openvino, openvino_answers, ("openvino",)),
}


@kept_random_streams()
def run_export(settings: ExportSettings) -> dict[str, Any]:
    """Carry out :func:`dreamstill.api.export`."""
    form, folder = FORMATS[settings.format], Path(settings.run)
    if settings.images < 1:
        raise InputError(f"images is {settings.images}: calibration needs at least 1")
    out = _out(settings, form)
    if isinstance(form, Int8Format):
        _check_makes_images(folder)
    network = delivered(settings.run, settings.student, settings.unsafe_load, settings.trust_code)
    out.parent.mkdir(parents=True, exist_ok=True)
    # All that is written takes its name when it has passed the check.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
        path = Path(scratch) / out.name
        figures: dict[str, Any] = {}
        if isinstance(form, Int8Format):
            trusted = settings.unsafe_load, settings.trust_code
            with tempfile.TemporaryDirectory() as other:
                write = form.prepare(network, Path(other))
                quantised = Quantised(folder, network, write, form.read, settings.images, *trusted)
                figures["int8"] = quantised.carry_out(path)
            figures["cost"] = compared_cost(folder, network, path, form.read, *trusted)
        else:
            form.write(network, path)
        record = _record(settings, form, network, path) | figures
        files = sorted(Path(scratch).iterdir())
        record["files"] = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
        for file in files:
            os.replace(file, out.parent / file.name)
    write_json(out.with_name(out.name + ".json"), record)
    say(said(out, record))
    return record


def _out(settings: ExportSettings, form: Format | Int8Format) -> Path:
    """Where to write; a run folder's own place for it without ``--out``."""
    run = Path(settings.run)
    if settings.out is None:
        return run / f"student{form.suffix}" if run.is_dir() else run.with_name(run.stem + form.suffix)
    last = "." + form.suffix.rsplit(".", 1)[1]
    if Path(settings.out).suffix != last:
        raise InputError(f"out is {settings.out}: a file of the format {settings.format} ends in {last}")
    return Path(settings.out)


def _check_makes_images(folder: Path) -> None:
    config = folder / "config.yaml"
    if not config.is_file() or not isinstance(read_run(config), DistillSettings):
        raise InputError(
            f"{folder} is no folder of a distillation, whose synthetic images 8 bits are calibrated on: give one, or "
            "export in float32"
        )


def _record(settings: ExportSettings, form: Format | Int8Format, network: Network, path: Path) -> dict[str, Any]:
    """What the JSON beside the file says; a float32 file that answers differently is refused."""
    found = parity(network, form.read(path))
    if isinstance(form, Format) and not found["max_difference"] <= TOLERANCE:  # not ">": NaN must fail too
        raise InputError(
            f"the exported {network.name} differs from torch by {found['max_difference']:.1e} of its largest logit, "
            f"expected at most {TOLERANCE:.0e}: its forward pass does something that the export does not keep; no file "
            "was written"
        )
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "format": settings.format,
        "file": path.name,
        "run": Path(settings.run).name,
        "input": {"name": "images", "shape": ["batch", network.channels, *network.image_size], "range": [0, 1]},
        "network": network.description(),
        "versions": {name: _version(name) for name in ("dreamstill", "torch", *form.packages)},
        "machine": machine(),
        "parity": found,
    }
    if path.suffix == ".onnx":
        import onnx

        opsets = onnx.load(str(path), load_external_data=False).opset_import
        about["opset"] = next(o.version for o in opsets if o.domain in ("", "ai.onnx"))
    return about


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # the name of a module, installed under another
        return None


def said(out: Path, record: dict[str, Any]) -> str:
    """The record in a few lines for the terminal."""
    size = sum(file["bytes"] for file in record["files"].values())
    lines = [f"{out}: {size:,} bytes; opset {record['opset']}" if "opset" in record else f"{out}: {size:,} bytes"]
    same = record["parity"]
    if "int8" not in record:
        lines.append(
            f"differs from torch by at most {same['max_abs_difference']:.1e} over batches of "
            f"{', '.join(map(str, same['batches']))}; the same class for {same['argmax_agreement']:.1%}"
        )
        return "\n".join(lines)
    int8, cost = record["int8"], record["cost"]
    agreed, labelled = int8["agreement_with_float32"], int8["labelled"]
    lines.append(
        f"the same class as in float32 for {agreed['int8']:.1%} of {agreed['images']} synthetic images that did not "
        f"calibrate it (calibrated on noise: {agreed['int8_calibrated_on_noise']:.1%})"
    )
    if isinstance(labelled, dict):
        lines.append(
            f"{labelled['figure']} on {labelled['data']}: float32 {labelled['student']:.2%}, int8 "
            f"{labelled['int8']:.2%} (calibrated on noise: {labelled['int8_noise']:.2%})"
        )
    else:
        lines.append(labelled)
    times = ", ".join(f"{name.replace('_', ' ')} {ms:.3g}" for name, ms in sorted(cost["milliseconds"].items()))
    lines.append(f"milliseconds an image, one thread: {times}")
    lines.append(", ".join(f"{name.replace('_', ' ')} {n:,} bytes" for name, n in sorted(cost["bytes"].items())))
    return "\n".join(lines)
