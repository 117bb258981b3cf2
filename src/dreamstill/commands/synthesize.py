"""``dreamstill synthesize``: take up a run's networks and write what its student learnt from, for others to use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from dreamstill.data.transfer_set import ROWS, kept, write_set
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.files import atomic_write
from dreamstill.methods import Method
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_uint8
from dreamstill.networks.predict import predict
from dreamstill.runs.manifest import read_manifest
from dreamstill.runs.random_numbers import kept_random_streams
from dreamstill.runs.restored import restored
from dreamstill.runs.settings import check_seed

DEFAULT_IMAGES = 1000


@kept_random_streams()
def write_images(run: str, n: int | None, out: str | None, seed: int, unsafe_load: bool) -> str:
    """Carry out :func:`dreamstill.api.synthesize`."""
    if n is not None and n < 1:
        raise InputError(f"n is {n}: make at least 1 image")
    check_seed(seed)
    if out is not None and Path(out).suffix not in (".parquet", ".safetensors"):
        raise InputError(f"out is {out}: give a file name that ends in .parquet or .safetensors")
    folder = Path(run)
    engine, method, settings, fingerprint = restored(folder, seed, unsafe_load)
    teacher = engine.given.teacher
    bank = method.transfer_set()
    path = Path(out) if out else folder / ("images.safetensors" if bank is None else "transfer.parquet")
    about = {"run": folder.name, "seed": seed, **teacher.description()}
    task = engine.given.task
    if path.suffix == ".parquet" and task.name == "segmentation":
        raise InputError(
            f"{path.name} would hold a row of logits an image, and this teacher gives a map of them: write "
            ".safetensors, which holds the images with the teacher's class of every pixel"
        )
    about |= {"teacher_sha256": fingerprint, "outside": read_manifest(folder)["outside_information"]}
    if path.suffix == ".parquet":
        made = kept(bank, n) if bank is not None else _fresh(method, engine, n or DEFAULT_IMAGES)
        count = write_set(path, made, teacher, _classes(folder, teacher), {**about, "method": settings.method})
    else:
        pixels = to_uint8(method.synthesise(engine, n or DEFAULT_IMAGES)).cpu().contiguous()
        count = len(pixels)
        if task.name == "segmentation":  # maps of logits would be hundreds of times as large as the images
            answers = {"labels": task.predict(teacher, pixels)}
        else:
            answers = {"logits": predict(teacher, pixels)}
        atomic_write(path, save({"pixels": pixels, **answers}, metadata={"dreamstill": json.dumps(about)}))
    what = "classes of every pixel" if task.name == "segmentation" else "logits"
    print(f"{count} images and the teacher's {what}: {path}")
    return str(path)


def _fresh(method: Method, engine: Engine, n: int) -> Iterator[Tensor]:
    """``n`` images made in pieces (uint8 ``b c h w``)."""
    for start in range(0, n, ROWS):
        yield to_uint8(method.synthesise(engine, min(ROWS, n - start))).cpu()


def _classes(folder: Path, teacher: Network) -> list[str]:
    """The classes' names where the run knew them, else their numbers."""
    try:
        named = json.loads((folder / "summary.json").read_text()).get("classes")
    except (OSError, ValueError):
        named = None
    return list(named) if named else [str(i) for i in range(teacher.num_classes)]
