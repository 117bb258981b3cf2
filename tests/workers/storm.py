"""Run as a process that may be killed or limited: a small run of one of the commands, taken up where it stopped."""

import resource
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from helpers.images import digits_folder, noise, parquet
from helpers.networks import tiny_network
from helpers.small import small

import dreamstill
from dreamstill import methods
from dreamstill.errors import DreamstillError
from dreamstill.networks.load import save_network
from dreamstill.runs.settings import method_spec

METHODS = ("ddad", "soft_target", "cpsc", "cgdd", "hidfd")
KINDS = (*METHODS, "transfer", "train", "synthesize", "bench")
FIXED = {"precision": "32", "compile": "off", "device": "cpu", "quiet": True}
STEPS = 60


def teacher_and_student():
    return tiny_network((6, 8), 0), tiny_network((3, 4), 1)


def settings(kind, base):
    """Of a distillation by a method, as small as its marks say; what it needs lies in ``base``."""
    more = {"collected": str(base / "collected")} if kind == "hidfd" else {}
    if kind == "transfer":
        more = {"transfer": str(base / "made" / "transfer.parquet")}
    return {"method": method_spec(small(methods.get(kind))), "steps": STEPS, "seed": 5, **more}


def prepare(base):
    """What the runs need: weights, images and a transfer set, made once."""
    teacher, student = teacher_and_student()
    save_network(base / "teacher.safetensors", teacher)
    save_network(base / "student.safetensors", student)
    (base / "collected").mkdir()
    parquet(base / "collected" / "train-0.parquet", [noise(8, 8, seed=i) for i in range(200)])
    digits_folder(base / "set")
    out = str(base / "made")
    given = {
        "teacher_checkpoint": str(base / "teacher.safetensors"),
        "student": student,
        **settings("soft_target", base),
    }
    dreamstill.distill(**given, out=out, onnx=False, **FIXED)
    (base / "recipes").mkdir()
    (base / "benchmarks").mkdir()
    recipe = {"teacher_checkpoint": "teacher.safetensors", "student_checkpoint": "student.safetensors"}
    recipe |= {"checkpoint_steps": 5, "onnx": False, **FIXED, **settings("ddad", base)}
    del recipe["seed"], recipe["quiet"]
    (base / "recipes" / "a.yaml").write_text(yaml.safe_dump(recipe))
    rows = [{"name": "a", "recipe": "recipes/a.yaml"}]
    suite = {"title": "storm", "seeds": [0, 1], "rows": rows, "shared": {"data": str(base / "set")}}
    (base / "benchmarks" / "storm.yaml").write_text(yaml.safe_dump(suite))


def main(kind, folder):
    """Begin or go on; a run that is finished is left alone."""
    base, resume = folder.parent, (folder / "config.yaml").exists()
    if (folder / "report.html").exists():
        return
    if kind == "train":
        given = {} if resume else {"network": "convnet", "data": str(base / "set"), "epochs": 12, "batch_size": 8}
        given |= {} if resume else {"network_args": {"widths": [3, 4]}, "crop": 1, "seed": 5}
        dreamstill.train(out=str(folder), resume=resume, checkpoint_seconds=0.02, **given, **FIXED)
    elif kind == "synthesize":
        folder.mkdir(exist_ok=True)
        dreamstill.synthesize(str(base / "made"), out=str(folder / "images.parquet"))
    elif kind == "bench":
        dreamstill.bench(str(base / "benchmarks" / "storm.yaml"), quiet=True)
    else:
        given = {} if resume else settings(kind, base)
        networks = teacher_and_student()
        dreamstill.distill(*networks, out=str(folder), resume=resume, checkpoint_steps=5, **given, **FIXED)


def process(kind, folder, scratch, largest_file=None):
    """What a process of its own does; ``largest_file``: bytes that a file may have."""
    torch.set_num_threads(1)
    tempfile.tempdir = scratch
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    try:
        main(kind, Path(folder))
    except DreamstillError as error:
        print(f"dreamstill: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
