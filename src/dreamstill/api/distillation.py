"""``dreamstill.distill``."""

from __future__ import annotations

from typing import Any

from dreamstill.runs.settings import Compile, DistillSettings, Precision

MYPY = False
if MYPY:  # for type checkers; under TYPE_CHECKING jsonargparse would import it, and torch with it, for --help
    from dreamstill.runs.result import Result


def distill(
    teacher: Any = None,
    student: Any = None,
    *,
    teacher_checkpoint: str | None = None,
    teacher_args: dict[str, Any] | None = None,
    student_checkpoint: str | None = None,
    student_args: dict[str, Any] | None = None,
    method: str | dict[str, Any] = "auto",
    num_classes: int | None = None,
    image_size: int | list[int] | None = None,
    channels: int | None = None,
    mean: list[float] | float | None = None,
    std: list[float] | float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    compile: Compile = "auto",
    device: str = "auto",
    threads: int | None = None,
    data: str | None = None,
    split: str = "test",
    set_size: int | list[int] | None = None,
    data_root: str | None = None,
    real: str | None = None,
    collected: str | None = None,
    transfer: str | None = None,
    out: str | None = None,
    resume: bool = False,
    dry_run: bool = False,
    unsafe_load: bool = False,
    checkpoint_seconds: float = 60.0,
    checkpoint_steps: int = 0,
    evaluations: int = 10,
    onnx: bool = True,
    quiet: bool = False,
    checkpoint_key: str | None = None,
    checkpoint_prefix: str | None = None,
    trust_code: bool = False,
    target_params: float | str | None = None,
    target_flops: float | str | None = None,
    target_latency: float | str | None = None,
) -> Result | None:
    """Distil a teacher into a student without the teacher's data.

    Writes a run folder with the student (safetensors and ONNX), samples of the synthetic images, a summary and a
    report. Schedules are fractions of the budget, so any budget gives a whole run.

    In Python a :class:`dreamstill.runs.result.Result` comes back, or None after ``dry_run``. Its ``.student`` takes
    images in [0, 1] and returns logits; ``.student.module`` is the bare network. Networks given in Python are copied,
    not changed.

    Args:
        teacher: the trained network: timm:NAME, torchvision:NAME, hf:FOLDER, a built-in name, or package.module:factory
            of your own. In Python also any nn.Module.
        student: the network to train, named in the same ways; auto finds a built-in one that keeps to a --target. In
            Python also any nn.Module.
        teacher_checkpoint: the teacher's weights: .safetensors, a .pt state_dict, or a run folder.
        teacher_args: arguments for building the teacher, as {width: 0.5}.
        student_checkpoint: weights for the student to start from; fresh ones without it.
        student_args: arguments for building the student.
        method: auto chooses method and settings by the teacher, the images given and the budget. Or a method's name,
            or {name: ddad, alpha: 0.1}; on the command line --method ddad --method.alpha 0.1. dreamstill methods ddad
            lists its settings.
        num_classes: how many classes the teacher tells apart.
        image_size: side of the images, or [height, width].
        channels: channels of the images; 3 if neither you nor the checkpoint says.
        mean: what the teacher's training subtracted, in [0, 1] units: one number a channel, or one for all.
        std: what the teacher's training divided by, in [0, 1] units: one number a channel, or one for all.
        steps: budget in optimiser steps of the student.
        minutes: budget in minutes, all included; the steps are measured first, and on the way again. Without either
            budget auto takes 10 minutes, and a named method 5,000 steps.
        seed: of everything random; the same seed on the same CPU gives the same student, bit for bit.
        precision: 32, bf16 (mixed), 64 (exact, slow), or auto.
        compile: whether to compile the steps with torch.compile: on, off or auto.
        device: cpu, cuda (or gpu), mps, or auto.
        threads: of the CPU; without it, where there is a budget of minutes, what is faster now: all of them or one.
        data: a labelled set to score teacher and student on; never used for training or for choosing weights.
        split: which split of it: settings that are chosen by their scores are best chosen on another than test.
        set_size: a larger size for the images of --data and --real. Segmentation scores them whole, classification
            their centre, and real_data cuts windows out of them.
        data_root: the folder that holds the named sets.
        real: real training images, for the control real_data only.
        collected: a few real, unlabelled look-alikes for the methods that need some: a folder of images, a parquet
            file or folder, a name under --data-root, or hub:owner/name. Labels are not read, files that cannot be read
            are left out, images of other sizes resized.
        transfer: a transfer set that dreamstill synthesize wrote (.parquet), for the method transfer only.
        out: the run folder; without it a new one under runs/.
        resume: go on with the run in --out from its last checkpoint, with its own settings.
        dry_run: only estimate time, memory and disk.
        unsafe_load: load checkpoints that hold pickled objects, which executes code from the file. Includes trust_code.
        checkpoint_seconds: seconds between two checkpoints.
        checkpoint_steps: iterations between two checkpoints, in place of seconds.
        evaluations: how often along the run the averaged student is scored on --data, for the curve in the report.
        onnx: write student.onnx and check it against the student.
        quiet: no progress display.
        checkpoint_key: which network of a teacher's checkpoint that holds several.
        checkpoint_prefix: which of several networks in one state_dict, by what its keys begin with.
        trust_code: import the package.module:factory that a file names; its pickles stay refused.
        target_params: for the student auto: at most so many parameters, as 300k.
        target_flops: for the student auto: at most so many operations an image, as 30M.
        target_latency: for the student auto: at most so long for one image on this CPU, as 5ms.
    """
    given = dict(locals())  # before anything else has a name here
    from dreamstill.commands.distill import run_distillation

    return run_distillation(DistillSettings(**given))
