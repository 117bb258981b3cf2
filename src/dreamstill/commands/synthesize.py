"""``dreamstill synthesize``: take up a run's networks and write what its student learnt from, for others to use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from dreamstill.data.transfer_set import write_set
from dreamstill.errors import InputError
from dreamstill.files import atomic_write
from dreamstill.messages import say
from dreamstill.networks.network import Network
from dreamstill.networks.predict import predict
from dreamstill.runs.manifest import read_manifest
from dreamstill.runs.random_numbers import kept_random_streams
from dreamstill.runs.restored import restored
from dreamstill.runs.settings import check_seed
from dreamstill.runs.shards import write_shards
from dreamstill.runs.source import Source

DEFAULT_IMAGES = 1000


@kept_random_streams()
def write_images(
    run: str,
    n: int | None,
    out: str | None,
    seed: int,
    unsafe_load: bool,
    balanced: bool,
    shard_size: int,
    trust_code: bool = False,
    **given: Any,
) -> str:
    """Carry out :func:`dreamstill.api.synthesize`."""
    for name, value in (("n", n), ("shard_size", shard_size)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}: make at least 1 image")
    check_seed(seed)
    if out is not None and Path(out).suffix not in (".parquet", ".safetensors", ""):
        raise InputError(f"out is {out}: give a file name that ends in .parquet or .safetensors, or a folder's")
    folder = Path(run)
    networks = {role: network for role, network in given.items() if network is not None}
    engine, method, settings, fingerprint = restored(folder, seed, unsafe_load, trust_code, networks)
    teacher = engine.given.teacher
    bank = method.transfer_set()
    path = Path(out) if out else folder / ("images.safetensors" if bank is None else "transfer.parquet")
    _check_form(path, engine.given.task.name, balanced)
    about = {"run": folder.name, "seed": seed, **teacher.description()}
    about |= {"teacher_sha256": fingerprint, "outside": read_manifest(folder)["outside_information"]}
    source = Source(method, engine, bank, balanced)
    classes = _classes(folder, teacher)
    if path.suffix == "":
        total = n or (len(bank) if bank is not None else DEFAULT_IMAGES)
        sizes = [min(shard_size, total - start) for start in range(0, total, shard_size)]
        whole = {
            "source": {**about, "method": settings.method}, "balanced": balanced, "shard_size": shard_size,
            "steps": settings.steps, "run_seed": settings.seed,
        }  # fmt: skip
        if (written := write_shards(path, sizes, source.shards(sizes), teacher, classes, whole)) < len(sizes):
            say(f"{len(sizes) - written} shards were there already")
        count = total
    elif path.suffix == ".parquet":
        count = write_set(path, source.pieces(n), teacher, classes, {**about, "method": settings.method})
    else:
        count = _write_safetensors(path, source, n, about)
    what = "classes of every pixel" if engine.given.task.name == "segmentation" else "logits"
    say(f"{count} images and the teacher's {what}: {path}")
    return str(path)


def _check_form(path: Path, task: str, balanced: bool) -> None:
    if task != "segmentation":
        return
    if path.suffix != ".safetensors":
        raise InputError(
            f"{path.name} would hold a row of logits an image, and this teacher gives a map of them: write "
            ".safetensors, which holds the images with the teacher's class of every pixel"
        )
    if balanced:
        raise InputError("an image of a segmentation run has no class of its own: leave out --balanced")


def _write_safetensors(path: Path, source: Source, n: int | None, about: dict[str, Any]) -> int:
    teacher, task = source.engine.given.teacher, source.engine.given.task
    pixels = source.together(n or DEFAULT_IMAGES)
    if task.name == "segmentation":  # maps of logits would be hundreds of times as large as the images
        answers = {"labels": task.predict(teacher, pixels)}
    else:
        answers = {"logits": predict(teacher, pixels)}
    atomic_write(path, save({"pixels": pixels, **answers}, metadata={"dreamstill": json.dumps(about)}))
    return len(pixels)


def _classes(folder: Path, teacher: Network) -> list[str]:
    """The classes' names where the run knew them, else their numbers."""
    try:
        named = json.loads((folder / "summary.json").read_text()).get("classes")
    except (OSError, ValueError):
        named = None
    return list(named) if named else [str(i) for i in range(teacher.num_classes)]
