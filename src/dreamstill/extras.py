"""Optional libraries: which extra installs them, and what to say if they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from dreamstill.errors import InputError
from dreamstill.messages import say

# The modules of each extra. The extras hub, models and segmentation are named where their one module is imported.
MODULES = {
    "data": ("pyarrow",),
    "demo": ("sklearn",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "plots": ("matplotlib",),
    "tracking": ("tensorboard",),
}


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed. They are not imported, which would take seconds."""
    return [module for module in MODULES[extra] if find_spec(module) is None]


def require(extra: str, what: str) -> None:
    """Make sure that an extra is installed.

    Args:
        extra: one of :data:`MODULES`.
        what: what it is needed for, as the subject of a sentence.

    Raises:
        InputError: it is not; says how to install it.
    """
    if absent := missing(extra):
        raise InputError(f"{what} needs {' and '.join(absent)}: pip install 'dreamstill[{extra}]'")


def say_left_out(files: Mapping[str, str]) -> None:
    """Say in one line which files will not be written because an extra is missing. Say nothing if all are installed.

    Call this before the work starts: whoever wants the file can stop, install the extra and start again.

    Args:
        files: what each extra is for, as ``{"onnx": "student.onnx"}``.
    """
    absent = [extra for extra in files if missing(extra)]
    if absent:
        names = ", ".join(files[extra] for extra in absent)
        command = f"pip install 'dreamstill[{','.join(absent)}]'"
        # Not on stdout, which may be JSON.
        say(f"left out, because libraries are not installed: {names} ({command})", aside=True)
