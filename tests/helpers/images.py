"""Files with images in them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def parquet(path, arrays, labels=None, names=None):
    """One file in the Hugging Face image layout; an array may also be bytes, or None."""
    images = [
        a if a is None else {"bytes": a if isinstance(a, bytes) else png(a), "path": f"{i}.png"}
        for i, a in enumerate(arrays)
    ]
    table = {"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        table["label"] = pa.array(labels)
    table = pa.table(table)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return str(path)


def digits_folder(path, n=40, seed=0):
    """Class folders of noise, with a split each for training and scoring."""
    draw = torch.Generator().manual_seed(seed)
    for split in ("train", "test"):
        for i in range(n):
            folder = path / split / str(i % 4)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (8, 8), generator=draw, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return str(path)
