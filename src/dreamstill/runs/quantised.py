"""What a student loses by 8 bits, and what it gains: figures beside the same calibrated on noise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamstill.errors import InputError
from dreamstill.networks.export_onnx import export_onnx
from dreamstill.networks.network import Network, noise_images
from dreamstill.networks.onnx_session import onnx_answers
from dreamstill.networks.parity import Answers, agreement
from dreamstill.networks.pixels import to_float, to_uint8
from dreamstill.networks.reused_classifier import base_of
from dreamstill.networks.timing import milliseconds
from dreamstill.networks.trust import refuse_own_code
from dreamstill.runs.config_file import read_run
from dreamstill.runs.inputs import resolve_teacher
from dreamstill.runs.random_numbers import kept_threads
from dreamstill.runs.settings import DistillSettings
from dreamstill.runs.stored_images import run_images
from dreamstill.tasks import task_of
from dreamstill.tasks.checks import load_scored

_BATCH = 256
Write = Callable[[Path, Tensor], None]  # quantises to a file, calibrated on these images (uint8 ``n c h w``)


@dataclass(frozen=True)
class Quantised:
    """A student in 8 bits, and all that its figures need."""

    folder: Path
    student: Network
    write: Write
    read: Callable[[Path], Answers]
    images: int
    unsafe_load: bool = False
    trust_code: bool = False

    def carry_out(self, path: Path) -> dict[str, Any]:
        """Write the file at ``path``; returns its figures."""
        pixels, source = run_images(
            self.folder, 2 * self.images, unsafe_load=self.unsafe_load, trust_code=self.trust_code
        )
        if len(pixels) < 2:
            raise InputError(f"{self.folder} has {len(pixels)} synthetic images: calibration needs some")
        calibration, held_out = pixels.tensor_split(2)
        noise = to_uint8(noise_images(self.student, len(calibration)))
        self.write(path, calibration)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".noise-") as scratch:
            beside = Path(scratch) / path.name
            self.write(beside, noise)
            files = {"int8": self.read(path), "int8_noise": self.read(beside)}
            with torch.inference_mode():
                everything = {"student": _torch(self.student), **files}
                said = {name: _ask(answers, held_out) for name, answers in everything.items()}
                labelled = self._labelled(everything)
        return {
            "calibration": {"images": len(calibration), "source": source},
            "agreement_with_float32": {
                "images": len(held_out),
                "int8": agreement(said["int8"], said["student"]),
                "int8_calibrated_on_noise": agreement(said["int8_noise"], said["student"]),
            },
            "labelled": labelled,
        }

    def _labelled(self, everything: dict[str, Answers]) -> dict[str, Any] | str:
        """The headline figure of each on the run's labelled set, or in a sentence why there is none."""
        settings = read_run(self.folder / "config.yaml")
        if settings.data is None:
            return "the run has no labelled images"
        try:
            test = load_scored(
                self.student, settings.data, settings.split, root=settings.data_root, set_size=settings.set_size
            )
        except InputError as error:
            return f"the run's labelled images were not found: {error}"
        assert test.labels is not None
        task, k = task_of(self.student), self.student.num_classes
        figures = {
            name: task.headline_of(_ask(answers, test.pixels).argmax(1), test.labels, k)
            for name, answers in everything.items()
        }
        return {"data": f"{test.name}, {test.split}, {len(test)} images", "figure": task.headline, **figures}


def compared_cost(
    folder: Path, student: Network, int8: Path, read: Callable[[Path], Answers], unsafe: bool, trust: bool
) -> dict[str, Any]:
    """Size and latency (one image, one thread) of teacher, student and the student in 8 bits on this machine."""
    image = noise_images(student, 1).clamp(0, 1)
    found: dict[str, Any] = {"threads": 1, "batch": 1, "bytes": {}, "milliseconds": {}}
    with kept_threads(), tempfile.TemporaryDirectory() as scratch:
        torch.set_num_threads(1)
        networks: dict[str, Network] = {"student": student}
        try:
            networks["teacher"] = _teacher(folder, unsafe, trust)
        except InputError as error:
            found["teacher_left_out"] = str(error)
        for name, network in networks.items():
            file = Path(scratch) / f"{name}.onnx"
            found["milliseconds"][f"{name}_torch"] = milliseconds(_torch(network), image)
            try:
                found["bytes"][f"{name}_onnx"] = export_onnx(network, file)["bytes"]
                found["milliseconds"][f"{name}_onnx"] = milliseconds(onnx_answers(file, threads=1), image)
            except InputError as error:
                found[f"{name}_onnx_left_out"] = str(error)
        found["bytes"]["student_int8"] = int8.stat().st_size
        found["milliseconds"]["student_int8"] = milliseconds(read(int8), image)
    return found


def _torch(network: Network) -> Answers:
    return network.eval()


def _ask(answers: Answers, pixels: Tensor) -> Tensor:
    return torch.cat([answers(to_float(batch)) for batch in pixels.split(_BATCH)])


def _teacher(folder: Path, unsafe: bool, trust: bool) -> Network:
    settings = read_run(folder / "config.yaml")
    assert isinstance(settings, DistillSettings)
    if not (unsafe or trust):
        args = settings.teacher_args or {}
        for name, kwargs in ((settings.teacher, args), base_of({"name": settings.teacher, "kwargs": args})):
            refuse_own_code(name, folder / "config.yaml", kwargs)
    return resolve_teacher(replace(settings, unsafe_load=unsafe, trust_code=trust)).eval()
