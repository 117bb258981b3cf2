"""A teacher, a few photographs without labels, no training data: `python examples/collected_photographs.py`.

Put pictures of the kind that the teacher sees into a folder, as many as you have. They are looked at, their labels are
not needed.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import dreamstill


def photograph(folder: Path, n: int = 120) -> None:
    """A stand-in for your camera: digits that are none of those in the test."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(load_digits().images[:n]):
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / f"{i}.png")


def main() -> None:
    """Train a teacher, distil with the photographs, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/example-collected")
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    photographs, teacher = Path(args.out + "-photographs"), args.out + "-teacher"
    photograph(photographs)
    dreamstill.train("convnet", "digits", network_args={"widths": [32, 64]}, epochs=5, crop=1, out=teacher)

    dreamstill.distill(
        teacher_checkpoint=teacher,
        student="convnet",
        student_args={"widths": [8, 16]},
        method={"name": "hidfd", "gan": 0.1, "gan_batch": 32, "batch_size": 32, "width": 16},
        collected=str(photographs),
        steps=args.steps,
        out=args.out,
    )
    found = dreamstill.evaluate(args.out, data="digits")
    print(f"accuracy {found['accuracy']:.1%}, agreement with the teacher {found['agreement']:.1%}")


if __name__ == "__main__":
    main()
