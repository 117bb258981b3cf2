"""Ten models of three libraries and three kinds of file: each to a student, ONNX, 8 bits and a card, as one types it.

``python benchmarks/ten_models.py --data-root ROOT`` trains each teacher for two epochs on some images of Fashion-MNIST,
saves it as its library does, and carries out the commands in the record: distill, export, export in 8 bits. The budgets
are tiny, so the figures say that the way is open and nothing about how good a student can be. It needs timm,
torchvision, transformers and onnx2torch, and writes ``benchmarks/records/ten_models/runs.json``; models that are in it
are left out. ``--table`` prints it as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamstill import cli
from dreamstill.data.load import load_images
from dreamstill.files import write_json
from dreamstill.networks.network import logits_of
from dreamstill.networks.pixels import to_float
from dreamstill.runs.machine import machine

RECORD = Path(__file__).parent / "records" / "ten_models" / "runs.json"
MEAN, STD, SIDE, TRAIN, TEST, EPOCHS, STEPS = 0.286, 0.353, 32, 2000, 500, 2, 400
FACTS = f"--image-size {SIDE} --mean '[{MEAN},{MEAN},{MEAN}]' --std '[{STD},{STD},{STD}]'"
PLAIN = f"--num-classes 10 {FACTS}"  # for what has no record of its own
STUDENT = "--student convnet --student-args '{widths: [16, 32, 64]}'"


# Of auto's choice, what makes it quick; whether it matches batch norms is left to it.
QUICK = (
    "--method auto --method.images 32 --method.inner-steps 3 --method.warmup 2 --method.batch-size 32 --method.width 8 "
    f"--method.student-steps 25 --steps {STEPS}"
)


class Small(nn.Module):
    """A plain network with batch norm, for the kinds of file."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(32 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``b 3 32 32`` to ``b 10``."""
        return self.head(self.features(x).flatten(1))


# ---------------------------------------------------------------- teachers: made, trained, saved


def timm_model(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10, **kwargs)

    return make


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=10)

    return make


def hf_model(kind: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        labels = load_images("fashion-mnist", "test", root=os.environ["TEN_MODELS_ROOT"], limit=1).classes
        config = getattr(transformers, f"{kind}Config")(
            id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}, **kwargs
        )
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    return make


def save_state(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


def save_folder(model: Any, path: Path) -> None:
    model.save_pretrained(path)
    facts = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3, "size": {"height": SIDE, "width": SIDE}}
    (path / "preprocessor_config.json").write_text(
        json.dumps(facts | {"do_normalize": True, "rescale_factor": 1 / 255})
    )


def save_onnx(model: nn.Module, path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, (torch.rand(2, 3, SIDE, SIDE),), path, dynamo=True, dynamic_shapes=shapes)


def save_pt2(model: nn.Module, path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(model, (torch.rand(2, 3, SIDE, SIDE),), dynamic_shapes=shapes), path)


def save_script(model: nn.Module, path: Path) -> None:
    torch.jit.trace(model, torch.rand(2, 3, SIDE, SIDE)).save(path)


HF_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "layer_type": "basic"}
HF_VIT = {
    "image_size": SIDE, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 128,
}  # fmt: skip
VIT = "vit_tiny_patch16_224"
# Name in the table, batch norm, how it is made and saved, under which file, how a user names it.
MODELS: tuple[tuple[str, Callable[[], nn.Module], Callable[[Any, Path], None], str, str], ...] = (
    ("timm resnet18", timm_model("resnet18"), save_state, "resnet18.pt",
     f"--teacher timm:resnet18 --teacher-checkpoint resnet18.pt {PLAIN}"),
    ("timm mobilenetv3_small_100", timm_model("mobilenetv3_small_100"), save_state, "mobilenet.pt",
     f"--teacher timm:mobilenetv3_small_100 --teacher-checkpoint mobilenet.pt {PLAIN}"),
    ("timm vit_tiny_patch16_224", timm_model(VIT, img_size=SIDE, patch_size=8), save_state, "vit.pt",
     f"--teacher timm:{VIT} --teacher-args '{{img_size: {SIDE}, patch_size: 8}}' --teacher-checkpoint vit.pt {PLAIN}"),
    ("torchvision mobilenet_v2", torchvision_model("mobilenet_v2"), save_state, "mobilenet_v2.pt",
     f"--teacher torchvision:mobilenet_v2 --teacher-checkpoint mobilenet_v2.pt {PLAIN}"),
    ("torchvision shufflenet_v2_x0_5", torchvision_model("shufflenet_v2_x0_5"), save_state, "shufflenet.pt",
     f"--teacher torchvision:shufflenet_v2_x0_5 --teacher-checkpoint shufflenet.pt {PLAIN}"),
    ("Hugging Face ResNet", hf_model("ResNet", **HF_RESNET), save_folder, "hf-resnet", "--teacher hf:./hf-resnet"),
    ("Hugging Face ViT", hf_model("ViT", **HF_VIT), save_folder, "hf-vit", "--teacher hf:./hf-vit"),
    ("ONNX", Small, save_onnx, "small.onnx", f"--teacher-checkpoint small.onnx {PLAIN}"),
    (".pt2 (convnext_atto)", timm_model("convnext_atto"), save_pt2, "convnext.pt2",
     f"--teacher-checkpoint convnext.pt2 --unsafe-load {PLAIN}"),
    ("TorchScript", Small, save_script, "small.ts", f"--teacher-checkpoint small.ts --unsafe-load {PLAIN}"),
)  # fmt: skip


def trained(make: Callable[[], nn.Module], root: str) -> nn.Module:
    """Two epochs of AdamW on some images: a teacher that knows more than nothing."""
    torch.manual_seed(0)
    model = make().train()
    images = load_images("fashion-mnist", "train", root=root, image_size=SIDE, channels=3, limit=TRAIN)
    assert images.labels is not None
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images)).split(64):
            opt.zero_grad()
            x = (to_float(images.pixels[index]) - MEAN) / STD
            F.cross_entropy(logits_of(model(x)), images.labels[index]).backward()
            opt.step()
    return model.eval()


# ---------------------------------------------------------------- the commands


def command(line: str) -> dict[str, Any]:
    """Carry a command out as typed; returns it with its exit code, last words and seconds."""
    said, began = io.StringIO(), time.monotonic()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")  # of libraries: they name the paths of this machine
        code = cli.main(shlex.split(line)[1:])
    words = [text for text in said.getvalue().splitlines() if text.strip()]
    return {"command": line, "code": code, "said": words[-6:], "seconds": round(time.monotonic() - began, 1)}


def one(name: str, folder: Path, given: str) -> dict[str, Any]:
    """The commands of one model, in a folder that holds its teacher."""
    unsafe = " --unsafe-load" if "--unsafe-load" in given else ""
    lines = [
        f"dreamstill distill {given} {STUDENT} {QUICK} --data fashion-mnist --data-root DATA --evaluations 1 --quiet "
        "--out run",
        f"dreamstill export run --format onnx --out student.onnx{unsafe}",
        f"dreamstill export run --format onnx-int8{unsafe}",
    ]
    found: dict[str, Any] = {"name": name, "training_images": TRAIN, "commands": []}
    with contextlib.chdir(folder):
        for line in lines:
            found["commands"].append(command(line))
            if found["commands"][-1]["code"]:
                return found
        summary = json.loads(Path("run/summary.json").read_text())
        int8 = json.loads(Path("run/student.int8.onnx.json").read_text())
        parity = json.loads(Path("student.onnx.json").read_text())["parity"]
        found["card"] = Path("run/README.md").is_file()
    kept = ("name", "params", "flops", "accuracy")
    found |= {side: {k: summary[side][k] for k in kept} for side in ("teacher", "student")}
    found |= {"method": summary["method"], "steps": summary["steps"], "agreement": summary["agreement"]}
    found |= {"verdict": summary["verdict"]["word"], "parity": parity, "int8": int8["int8"], "cost": int8["cost"]}
    return found


def small_set(root: str, folder: Path) -> None:
    """Some of the test images, evenly, so that scoring is quick."""
    for split, most in (("test", TEST), ("train", TRAIN)):
        (file,) = sorted((Path(root) / "fashion-mnist").glob(f"{split}-*.parquet"))
        (folder / "fashion-mnist").mkdir(parents=True, exist_ok=True)
        pq.write_table(pq.read_table(file).slice(0, most), folder / "fashion-mnist" / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", default="DATA", help="the folder that holds fashion-mnist/*.parquet")
    parser.add_argument("--only", default="", help="models whose names hold this")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and run nothing")
    args = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"machine": machine(), "models": []}
    if args.table:
        print(table(record))
        return
    with tempfile.TemporaryDirectory() as scratch:
        small_set(args.data_root, Path(scratch) / "DATA")
        os.environ["TEN_MODELS_ROOT"] = str(Path(scratch) / "DATA")
        for name, make, save, file, given in MODELS:
            if args.only not in name or any(m["name"] == name and "int8" in m for m in record["models"]):
                continue
            folder = Path(scratch) / name.replace(" ", "-")
            folder.mkdir()
            (folder / "DATA").symlink_to(Path(scratch) / "DATA")
            save(trained(make, os.environ["TEN_MODELS_ROOT"]), folder / file)
            found = one(name, folder, given)
            print(json.dumps(found["commands"], indent=1), flush=True)
            record["models"] = [m for m in record["models"] if m["name"] != name] + [found]
            write_json(RECORD, record)
    print(table(record))


def table(record: dict[str, Any]) -> str:
    """A row a model: accuracies, what 8 bits lose, sizes and times."""
    head = [
        "teacher",
        "steps",
        "teacher, student",
        "in 8 bits",
        "on noise",
        "ONNX, 8 bits",
        "teacher, student, 8 bits",
    ]
    rows = [head, ["---"] * len(head)]
    for m in record["models"]:
        if "int8" not in m:
            rows.append([m["name"], f"failed: {m['commands'][-1]['said'][-1]}", "", "", "", "", ""])
            continue
        labelled, cost = m["int8"]["labelled"], m["cost"]
        ms, size = cost["milliseconds"], cost["bytes"]
        rows.append([
            m["name"], str(m["steps"]), f"{m['teacher']['accuracy']:.1%}, {m['student']['accuracy']:.1%}",
            f"{labelled['int8']:.1%}", f"{labelled['int8_noise']:.1%}",
            f"{size['student_onnx'] / 1e3:.0f} kB, {size['student_int8'] / 1e3:.0f} kB",
            ", ".join(f"{ms.get(k, ms['teacher_torch']):.2g}" for k in ("teacher_onnx", "student_onnx", "student_int8"))
            + " ms",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
