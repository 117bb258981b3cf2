"""A timm network as teacher: `python examples/timm_teacher.py`.

Your own: leave out the first part, and name the model and your checkpoint below. Mean, std and size are those that the
training used.
"""

import argparse
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import dreamstill

MEAN, STD, SIDE = 0.3, 0.37, 32
MODEL = "mobilenetv3_small_050"


def train_a_teacher(path: Path) -> None:
    """A stand-in for your training: digits, enlarged to what the network's strides need."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:1297, None] / 16
    images = (F.interpolate(images, SIDE, mode="bilinear").expand(-1, 3, -1, -1) - MEAN) / STD
    labels = torch.tensor(digits.target)[:1297]
    model = timm.create_model(MODEL, num_classes=10).train()
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(4):
        for index in torch.randperm(len(images)).split(64):
            opt.zero_grad()
            F.cross_entropy(model(images[index]), labels[index]).backward()
            opt.step()
    torch.save(model.state_dict(), path)


def main() -> None:
    """Train, distil, and say where the results are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/example-timm")
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    checkpoint = Path(args.out + "-teacher.pt")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    train_a_teacher(checkpoint)

    dreamstill.distill(
        f"timm:{MODEL}",
        "convnet",
        teacher_checkpoint=str(checkpoint),
        student_args={"widths": [16, 32, 64]},
        num_classes=10,
        image_size=SIDE,
        mean=[MEAN] * 3,
        std=[STD] * 3,
        method={"name": "auto", "images": 64, "inner_steps": 4, "warmup": 4, "width": 16},  # quicker than its own
        steps=args.steps,
        data="digits",  # labelled images, for the figures alone: leave it out if you have none
        out=args.out,
    )
    print(f"the student: {args.out}/student.onnx; its card: {args.out}/README.md")


if __name__ == "__main__":
    main()
