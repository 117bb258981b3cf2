"""From a teacher that is only an ONNX file to a student in 8 bits: `python examples/onnx_to_int8.py`."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import dreamstill

MEAN, STD = 0.3, 0.37


def make_an_onnx_file(path: Path) -> None:
    """A stand-in for the file that somebody handed over."""
    torch.manual_seed(0)
    digits = load_digits()
    images = (torch.tensor(digits.images, dtype=torch.float32)[:1297, None] / 16 - MEAN) / STD
    labels = torch.tensor(digits.target)[:1297]
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(8):
        for index in torch.randperm(len(images)).split(64):
            opt.zero_grad()
            F.cross_entropy(model(images[index]), labels[index]).backward()
            opt.step()
    batch = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(model.eval(), (images[:2],), path, dynamo=True, dynamic_shapes=batch, verbose=False)


def main() -> None:
    """Distil from the file, quantise on the synthetic images, and let onnxruntime read digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/example-int8")
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    teacher = Path(args.out + "-teacher.onnx")
    teacher.parent.mkdir(parents=True, exist_ok=True)
    make_an_onnx_file(teacher)

    dreamstill.distill(
        teacher_checkpoint=str(teacher),
        student="convnet",
        student_args={"widths": [16, 32]},
        num_classes=10,
        image_size=8,
        channels=1,
        mean=[MEAN],
        std=[STD],
        steps=args.steps,
        data="digits",
        out=args.out,
    )
    dreamstill.export(args.out, format="onnx-int8")

    session = onnxruntime.InferenceSession(f"{args.out}/student.int8.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["dreamstill"])
    digits = load_digits()
    pixels = (digits.images[1297:, None] / 16).astype(np.float32)  # in [0, 1]: mean and std are inside the file
    (logits,) = session.run(["logits"], {"images": pixels})
    right = (logits.argmax(1) == digits.target[1297:]).mean()
    print(f"{about['num_classes']} classes; {right:.1%} of {len(pixels)} digits read in 8 bits")


if __name__ == "__main__":
    main()
