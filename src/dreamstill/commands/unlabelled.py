"""``dreamstill evaluate --images``: how far a student agrees with its teacher on real images without labels."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from dreamstill.data.collected import load_collected
from dreamstill.messages import say, show
from dreamstill.networks.network import Network
from dreamstill.networks.predict import predict
from dreamstill.tasks import metrics, task_of

_SHOWN = 20  # classes, those with the least agreement first


def compare_on_images(student: Network, teacher: Network, source: str, root: str | None) -> dict[str, Any]:
    """Show and return the figures of :func:`dreamstill.tasks.metrics.against` on somebody's photographs.

    Args:
        student: scored; its names of classes are used.
        teacher: whose answers are taken for the truth.
        source: a folder of images at any depth, a parquet file, or what else ``--collected`` takes.
        root: folder that holds the named sets.
    """
    images = load_collected(source, image_size=student.image_size, channels=student.channels, root=root)
    for note in images.notes:
        say(note.replace("of the collected images", "of the images"))
    if task_of(student).name == "segmentation":
        task = task_of(student)
        mine, theirs = task.predict(student, images.pixels), task.predict(teacher, images.pixels)
        found = metrics.agreement_by_class(mine.flatten(), theirs.flatten(), student.num_classes)
    else:
        found = metrics.against(predict(student, images.pixels), predict(teacher, images.pixels))
    names = student.classes or teacher.classes or tuple(str(i) for i in range(student.num_classes))
    found = {"images": len(images), **found}
    for row in found["per_class"]:
        row["name"] = names[row["class"]]
    _show(source, found)
    return found


def _show(source: str, found: dict[str, Any]) -> None:
    low, high = found["interval"]
    lines = [
        f"{source}: {found['images']} unlabelled images",
        f"agreement with the teacher  {found['agreement']:.1%} (95 % interval {low:.1%} to {high:.1%})",
    ]
    if "ece" in found:
        lines.append(f"calibration error against it  {found['ece']:.1%} (confidence of the student, 15 bins)")
    table = Table("class, as the teacher sees it")
    table.add_column("share", justify="right")
    table.add_column("agreement", justify="right")
    seen = sorted((row for row in found["per_class"] if row["count"]), key=lambda row: float(row["agreement"]))
    for row in seen[:_SHOWN]:
        table.add_row(row["name"], f"{row['share']:.1%}", f"{row['agreement']:.1%}")
    show(table)
    unseen = len(found["per_class"]) - len(seen)
    if len(seen) > _SHOWN:
        lines.append(f"{len(seen) - _SHOWN} more classes agree better than those in the table")
    if unseen:
        lines.append(f"the teacher sees none of these images in {unseen} of its {len(found['per_class'])} classes")
    lines.append("the teacher may be wrong about them: this says how well it was copied, not how often it is right")
    say("\n".join(lines))
