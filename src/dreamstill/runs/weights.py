"""Where the first weights of a run's networks come from, for its manifest and to recognise them later."""

from __future__ import annotations

from pathlib import Path

from dreamstill.networks import state_dicts
from dreamstill.networks.load import checkpoint_file
from dreamstill.networks.network import Network
from dreamstill.runs.manifest import Weights, read_manifest
from dreamstill.runs.settings import DistillSettings


def teacher_weights(settings: DistillSettings, teacher: Network) -> Weights:
    """File and checksums of the teacher's weights, before the engine gives them another precision."""
    tensors = state_dicts.fingerprint(teacher.module)
    if settings.teacher_checkpoint is None:
        return Weights(None, tensors, tensors)
    file = checkpoint_file(Path(settings.teacher_checkpoint))
    return Weights(str(file), state_dicts.sha256(file), tensors)


def student_weights(settings: DistillSettings) -> Weights:
    """The source of a student's first weights, if it is not the seed, and the information used in making them."""
    given = {k: v for k, v in (settings.student_args or {}).items() if k.endswith("weights") and v is not None}
    outside = [f"the student's {key}: {value}" for key, value in given.items()]
    if settings.student_checkpoint is None:
        return Weights(outside=tuple(outside))
    folder = Path(settings.student_checkpoint)
    file = checkpoint_file(folder)
    outside.append(f"the student's first weights, {file.name} of SHA-256 {(digest := state_dicts.sha256(file))[:12]}")
    if (folder / "manifest.json").is_file():
        outside += [f"{used} (for them)" for used in read_manifest(folder)["outside_information"]]
    return Weights(str(file.resolve()), digest, outside=tuple(outside))
