"""A set of synthetic images in several parquet files, made one after the other, so that a killed command goes on.

What a shard holds depends on the run, the settings and the shard's number alone. So the whole set has the same bits
whether it was made in one go or not. ``manifest.json`` names the finished shards; another's is never written over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from dreamstill.data.transfer_set import write_set
from dreamstill.errors import InputError, first_line
from dreamstill.files import SCRATCH, atomic_write, write_json
from dreamstill.messages import say
from dreamstill.networks.network import Network
from dreamstill.networks.predict import predict
from dreamstill.networks.state_dicts import sha256

SCHEMA = 1
LICENSE = "not chosen: the terms of the teacher and of the data behind it bind these images too; write yours here"


def write_shards(
    folder: Path,
    sizes: list[int],
    make: Callable[[int], Tensor],
    teacher: Network,
    classes: list[str],
    about: dict[str, Any],
) -> int:
    """Write the shards that a folder does not hold yet; returns how many were written.

    Args:
        folder: made if missing; one that holds another set, or somebody's parquet files, is refused.
        sizes: images of each shard.
        make: the images (uint8 ``n c h w``) of the shard with a number.
        teacher: asked for the logits.
        classes: the names of its classes.
        about: what the set depends on and where it comes from, as plain JSON.
    """
    about = json.loads(json.dumps({"schema": SCHEMA, **about, "count": sum(sizes), "license": LICENSE}))
    done = _finished(folder, about)
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.iterdir():  # of a process that was killed while it wrote
        if SCRATCH.fullmatch(left_over.name):
            left_over.unlink()
    atomic_write(folder / "README.md", _card(about))
    written = 0
    for i in range(len(sizes)):
        name = f"train-{i:05d}-of-{len(sizes):05d}.parquet"
        path = folder / name
        if name in done and path.is_file() and sha256(path) == done[name]["sha256"]:
            continue
        pixels = make(i)
        write_set(path, [pixels], teacher, classes, about["source"])
        labels = predict(teacher, pixels).argmax(1)
        counts = torch.bincount(labels, minlength=teacher.num_classes).tolist()
        done[name] = {"images": len(pixels), "sha256": sha256(path), "classes": counts}
        # After each: what is named is whole.
        write_json(folder / "manifest.json", {**about, "shards": dict(sorted(done.items()))})
        written += 1
        say(f"shard {i + 1} of {len(sizes)}: {path}")
    return written


def _finished(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The shards that an earlier call with the same settings has written."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        if folder.is_dir() and (others := sorted(p.name for p in folder.glob("*.parquet"))):
            raise InputError(f"{folder} holds {others[0]} and no manifest.json: choose another --out")
        return {}
    try:
        found = json.loads(manifest.read_text())
        shards = dict(found.pop("shards", {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{manifest} cannot be read ({first_line(error)}): choose another --out") from error
    for key in about:
        if key != "license" and found.get(key) != about[key]:
            raise InputError(
                f"{folder} holds another set, whose {key} is {found.get(key)} and not {about[key]}: choose another "
                "--out, or give the same run and settings to go on with it"
            )
    return shards


def _card(about: dict[str, Any]) -> str:
    """The metadata by which the ``datasets`` library finds the shards, and a line of text."""
    metadata = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train-*.parquet"}]}],
        "tags": ["dreamstill", "synthetic"],
    }
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}# license: {LICENSE}\n---\n\n"
        f"{about['count']:,} synthetic images with a teacher's logits, made by dreamstill. `manifest.json` says by "
        "which teacher, method and settings.\n"
    )
