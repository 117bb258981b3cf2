"""A transfer set as a file: synthetic images with the teacher's logits, for further students or a closer look.

It is parquet in the Hugging Face image layout: ``image`` (bytes of a PNG, path), ``label`` (the teacher's likeliest
class), ``logits`` (float32). ``datasets`` can read it, and so can :func:`dreamstill.data.load.load_images`, as a
labelled set. During a run the images lie in its checkpoint, so writing the file takes seconds and needs no state of its
own.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamstill import extras
from dreamstill.data import storage
from dreamstill.data.bank import ImageBank
from dreamstill.errors import InputError, first_line
from dreamstill.files import replacing
from dreamstill.networks import state_dicts
from dreamstill.networks.network import Network
from dreamstill.networks.predict import predict

ROWS = 1000  # of a row group: so many are held in memory at a time


def write_parquet(
    path: Path | str,
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: Sequence[str],
    about: dict[str, Any] | None = None,
) -> int:
    """Write images and logits, each batch as a row group. The file gets its name when it is complete.

    Args:
        path: the file.
        batches: pixels (uint8 ``b c h w``, 1 or 3 channels) and logits (``b k``).
        classes: the names of the k classes.
        about: more facts to keep in the file, under the key ``dreamstill``.

    Returns:
        How many images were written.

    Raises:
        InputError: another number of channels, no image at all, the disk is full, or pyarrow is missing.
    """
    extras.require("data", "writing parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "label": pa.int64(),
            "logits": pa.list_(pa.float32()),
        },
        metadata={"huggingface": json.dumps(_features(classes)), "dreamstill": json.dumps(about or {})},
    )
    written = 0
    with replacing(path) as handle, pq.ParquetWriter(handle, schema, write_page_checksum=True) as writer:
        for pixels, logits in batches:
            logits = logits.float().cpu()
            rows = {
                "image": [
                    {"bytes": png(image), "path": f"{written + i:06d}.png"} for i, image in enumerate(pixels.cpu())
                ],
                "label": logits.argmax(1).tolist(),
                "logits": logits.tolist(),
            }
            writer.write_table(pa.table(rows, schema=schema))
            written += len(pixels)
        if not written:
            raise InputError("there is no image to write: the run must have made some")
    return written


def write_set(
    path: Path, images: Iterable[Tensor], teacher: Network, classes: Sequence[str], about: dict[str, Any]
) -> int:
    """Write images (uint8 ``b c h w`` each) with the teacher's logits; returns how many.

    Args:
        path: the file.
        images: in parts, each a row group.
        teacher: asked for the logits.
        classes: the names of its classes.
        about: where they come from: ``run``, ``seed``, ``method``, ``outside``, ``teacher_sha256``.
    """
    seen = ((pixels, predict(teacher, pixels)) for pixels in images)
    return write_parquet(path, seen, classes, {**teacher.description(), **about})


def kept(bank: ImageBank, n: int | None = None) -> Iterator[Tensor]:
    """The images of a transfer set, or its first ``n``, in parts (uint8 ``b c h w``)."""
    if n is not None and n > len(bank):
        raise InputError(f"the run's transfer set has {len(bank)} images, not {n}: leave out --n, or give at most that")
    return (pixels.cpu() for pixels in bank.pixels[: len(bank) if n is None else n].split(ROWS))


@dataclass(frozen=True)
class TransferSet:
    """A transfer set read back."""

    pixels: Tensor  # uint8 ``n c h w``
    logits: Tensor  # float32 ``n k``
    sha256: str  # of the file
    outside: list[str]  # the outside information used in making it


def read_parquet(path: Path | str, teacher: Network, scratch: Path | None = None) -> TransferSet:
    """Read what :func:`write_parquet` wrote, for this teacher, a row group at a time.

    Args:
        path: the file.
        teacher: whose logits it must hold.
        scratch: folder for a set too large for memory; by default the system's folder for temporary files.

    Raises:
        InputError: it is not such a file, it is for another teacher, image size or number of classes, or pyarrow is
            missing.
    """
    extras.require("data", f"reading {path}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        about = json.loads((file.schema_arrow.metadata or {})[b"dreamstill"])
        recorded, outside, size = about["teacher_sha256"], about["outside"], (about["channels"], *about["image_size"])
        k, pixels_are = about["num_classes"], (about["mean"], about["std"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError, pa.ArrowException) as error:
        raise InputError(
            f"{path} is not a transfer set ({type(error).__name__}: {first_line(error)}). Give a .parquet that "
            "dreamstill synthesize wrote"
        ) from error
    for what, theirs, ours in (
        ("images of", "x".join(map(str, size)), "x".join(map(str, (teacher.channels, *teacher.image_size)))),
        ("a number of classes of", k, teacher.num_classes),
        ("pixels of the mean and deviation", pixels_are, tuple(teacher.description()[key] for key in ("mean", "std"))),
        ("the teacher with SHA-256", recorded, state_dicts.fingerprint(teacher.module)),
    ):
        if theirs != ours:
            raise InputError(
                f"the transfer set {path} was made for {what} {theirs}, and here it is {ours}: give the teacher that "
                "it was made from, or make a set from this one"
            )
    scratch = Path(tempfile.gettempdir()) if scratch is None else scratch
    pixels = storage.room((file.metadata.num_rows, *size), torch.uint8, scratch)
    logits = storage.room((len(pixels), k), torch.float32, scratch)
    at = 0
    try:
        for batch in file.iter_batches(ROWS, columns=["image", "logits"]):
            for row in batch.to_pylist():
                image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
                pixels[at] = torch.from_numpy(image.copy()).view(*size[1:], size[0]).permute(2, 0, 1)
                logits[at] = torch.tensor(row["logits"])
                at += 1
        if at < len(pixels):
            raise ValueError(f"the file says that it has {len(pixels):,}")
    except (
        OSError, KeyError, TypeError, ValueError, RuntimeError, IndexError, SyntaxError, Image.DecompressionBombError,
        pa.ArrowException,
    ) as error:  # fmt: skip
        raise InputError(
            f"image {at} of the transfer set {path} cannot be read ({first_line(error)}): write the set again with "
            "dreamstill synthesize"
        ) from error
    return TransferSet(pixels, logits, state_dicts.sha256(path), list(outside))


def png(image: Tensor) -> bytes:
    """One image (uint8 ``c h w``, 1 or 3 channels) as PNG, without loss."""
    c = image.shape[0]
    if image.dtype != torch.uint8 or c not in (1, 3):
        raise InputError(f"PNG takes uint8 with 1 or 3 channels, not {image.dtype} with {c}: write .safetensors")
    array = image[0].numpy() if c == 1 else image.permute(1, 2, 0).contiguous().numpy()
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def _features(classes: Sequence[str]) -> dict[str, Any]:
    """The types of the columns, as the ``datasets`` library writes them."""
    return {
        "info": {
            "features": {
                "image": {"_type": "Image"},
                "label": {"names": list(classes), "_type": "ClassLabel"},
                "logits": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
            }
        }
    }
