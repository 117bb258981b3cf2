"""Images and labels in parquet files of the Hugging Face image layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamstill import extras
from dreamstill.data.image_set import check_unsplit
from dreamstill.errors import InputError, first_line


def parquet_files(folder: Path, split: str) -> list[Path] | None:
    """The parquet files of a split, or None if the place is a folder of images."""
    every = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
    if every:
        extras.require("data", f"reading {every[0]}")
    if folder.is_file():
        check_unsplit(folder, split)
        return every
    # "train-00000-of-00002" and "train" belong to the split "train"; "trainval-..." does not.
    splits = [re.sub(r"[-_.]?\d.*", "", f.stem) for f in every]
    chosen = [f for f, s in zip(every, splits, strict=True) if s == split]
    if every and not chosen:
        there = sorted(set(splits))
        raise InputError(f"{folder} has no split {split!r}: its files belong to {', '.join(there)}")
    return chosen or None


def parquet_labels(files: list[Path]) -> tuple[Tensor | None, tuple[str, ...], int]:
    """Labels (int64 ``n``) or None, the names of the classes, and how many images there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels: list[np.ndarray] = []
    count = 0
    names: tuple[str, ...] = ()
    for file in files:
        try:
            schema = parquet_schema(file)
            count += pq.read_metadata(file).num_rows
            if "label" in schema.names:
                column = pq.read_table(file, columns=["label"])["label"]
                if not pa.types.is_integer(column.type):
                    raise InputError(f"{file} has labels of type {column.type}: expected whole numbers")
                if column.null_count:
                    raise InputError(f"{file} has {column.null_count} empty labels: expected one for every image")
                labels.append(column.to_numpy())
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{file} is not a readable parquet file ({first_line(error)}): fetch it again") from error
        names = _class_names(schema, file) or names
    if count == 0:
        raise InputError(f"{', '.join(str(f) for f in files)} has no rows: expected at least one image")
    if not labels:
        return None, names, count
    joined = torch.from_numpy(np.concatenate(labels)).long()
    return joined, names or tuple(str(i) for i in range(int(joined.max()) + 1)), count


def _class_names(schema: Any, file: Path) -> tuple[str, ...]:
    """The names in the file's ``huggingface`` record; empty if there are none.

    Raises:
        InputError: the record is damaged.
    """
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features", "label"):
            found = found.get(key, {})
        names = found.get("names") or ()
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return tuple(names)
        why = "names are not a list of texts"
    except (ValueError, AttributeError, RecursionError) as error:
        why = first_line(error)
    raise InputError(
        f"{file} has a damaged huggingface record ({why}): expected info, features, label, names as the datasets "
        "library writes them; write the file again, or without the record"
    )


def parquet_schema(file: Path) -> Any:
    """The schema of a file that holds images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file} is not a readable parquet file ({first_line(error)}): fetch it again") from error
    if "image" not in schema.names or not pa.types.is_struct(schema.field("image").type):
        columns = ", ".join(f"{f.name} ({f.type})" for f in schema)
        raise InputError(f"{file} has the columns {columns}: expected image (bytes, path), and label")
    return schema


def parquet_images(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all images, file by file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=512, columns=["image"]):
                for row in batch["image"].to_pylist():
                    row = row or {}
                    yield str(row.get("path") or file.name), row.get("bytes") or b""
        except (OSError, ValueError, pa.ArrowException) as error:  # a page is read when its turn comes
            raise InputError(f"{file} is damaged ({first_line(error)}): fetch it again") from error
