"""The engine: the one place that knows device, precision, compilation and ranks."""

from dreamstill.engine.core import Engine, Terms
from dreamstill.engine.given import Given
from dreamstill.engine.hardware import Hardware, choose
from dreamstill.engine.parts import Cast, Owned
from dreamstill.engine.ranks import GlobalBatchNorm2d
from dreamstill.engine.readings import check_finite
from dreamstill.engine.seeds import stream

__all__ = [
    "Cast",
    "Engine",
    "Given",
    "GlobalBatchNorm2d",
    "Hardware",
    "Owned",
    "Terms",
    "check_finite",
    "choose",
    "stream",
]
