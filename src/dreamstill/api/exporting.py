"""``dreamstill.export``."""

from __future__ import annotations

from typing import Any

from dreamstill.runs.settings import ExportFormat, ExportSettings


def export(
    run: str,
    *,
    format: ExportFormat = "onnx",
    out: str | None = None,
    images: int = 256,
    student: Any = None,
    unsafe_load: bool = False,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Write the student of a run in a form for deployment, for any batch size, checked against the student.

    Beside the file lies a JSON with what was checked, which is also returned. With 8 bits it says what the student
    loses, and size and time of teacher, student and file on this machine.

    Args:
        run: a run folder, or for the forms in float32 a .safetensors file that dreamstill wrote.
        format: onnx; onnx-int8, by onnxruntime; pt2, an exported program of torch; pt2-int8, by torchao; openvino.
        out: the file to write; without it one in the run folder.
        images: synthetic images that 8 bits are calibrated on; as many again measure the loss.
        student: the network whose weights the run holds, where it was given in Python, as in evaluate.
        unsafe_load: load pickled checkpoints, which executes code from the file. Includes trust_code.
        trust_code: import the package.module:factory that the run names; its pickles stay refused.
    """
    from dreamstill.commands.export import run_export

    settings = ExportSettings(
        run=run, format=format, out=out, images=images, student=student, unsafe_load=unsafe_load, trust_code=trust_code,
    )  # fmt: skip
    return run_export(settings)
