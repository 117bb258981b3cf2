"""The public functions, the same for Python and for the command line. Torch is imported only when one is called."""

from __future__ import annotations

from typing import Any

from dreamstill.runs.settings import (
    ClassWeights,
    Compile,
    DistillSettings,
    DoctorSettings,
    EvaluateSettings,
    ExportFormat,
    ExportSettings,
    Precision,
    ProfileSettings,
    TrainSettings,
)

MYPY = False
if MYPY:  # for type checkers; under TYPE_CHECKING jsonargparse would import it, and torch with it, for --help
    from dreamstill.networks.network import Network


def distill(
    teacher: Any = None,
    student: Any = None,
    *,
    teacher_checkpoint: str | None = None,
    teacher_args: dict[str, Any] | None = None,
    student_checkpoint: str | None = None,
    student_args: dict[str, Any] | None = None,
    method: str | dict[str, Any] = "auto",
    preset: str | None = None,
    num_classes: int | None = None,
    image_size: int | list[int] | None = None,
    channels: int | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
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
) -> Network | None:
    """Distil a teacher into a student without the teacher's data.

    Writes a run folder with the student (safetensors and ONNX), samples of the synthetic images, a summary and a
    report, and returns the student (:class:`dreamstill.networks.network.Network`: images in [0, 1] in, logits out; the
    bare network is its ``.module``), or None after ``dry_run``. Networks given in Python are copied, not changed.
    Schedules are fractions of the budget, so any budget gives a whole run.

    Args:
        teacher: the trained network: a built-in name, package.module:factory, or in Python any nn.Module.
        student: the network to train, given in the same ways; for segmentation as the teacher is.
        teacher_checkpoint: the teacher's weights: .safetensors, a .pt state_dict, or a run folder.
        teacher_args: arguments for building the teacher, as {width: 0.5}.
        student_checkpoint: weights for the student to start from; fresh ones without it.
        student_args: arguments for building the student.
        method: auto chooses method and settings by the teacher, the images given and the budget. Or a method's name,
            or {name: ddad, alpha: 0.1}; on the command line --method ddad --method.alpha 0.1. dreamstill methods ddad
            lists its settings.
        preset: paper sets what the named method's paper or released code has where its default is ours. A setting that
            you give stands.
        num_classes: how many classes the teacher tells apart.
        image_size: side of the images, or [height, width].
        channels: channels of the images; 3 if neither you nor the checkpoint says.
        mean: per channel, what the teacher's training subtracted, in [0, 1] units.
        std: per channel, what the teacher's training divided by, in [0, 1] units.
        steps: budget in optimiser steps of the student.
        minutes: budget in minutes, all included; the steps are measured first, and on the way again. Without either
            budget auto takes 10 minutes, and a named method 5,000 steps.
        seed: of everything random; the same seed on the same CPU gives the same student, bit for bit.
        precision: 32, bf16 (mixed), 64 (exact, slow), or auto.
        compile: whether to compile the steps with torch.compile: on, off or auto.
        device: cpu, cuda, mps or auto.
        threads: of the CPU; without it, where there is a budget of minutes, what is faster now: all of them or one.
        data: a labelled set to score teacher and student on; never used for training or for choosing weights.
        split: which split of it: settings that are chosen by their scores are best chosen on another than test.
        set_size: sides that the images of --data and --real are brought to if not to image_size: larger ones, whose
            whole is scored for segmentation and whose centre for classification, and of which real_data cuts windows.
        data_root: the folder that holds the named sets.
        real: real training images, for the control real_data only.
        collected: a few real, unlabelled look-alikes for the methods that need some: a folder of images, a parquet
            file or folder, a name under --data-root, or hub:owner/name. Labels are not read, files that cannot be read
            are left out, images of other sizes resized.
        transfer: a transfer set that dreamstill synthesize wrote (.parquet), for the method transfer only.
        out: the run folder; without it a new one under runs/.
        resume: go on with the run in --out from its last checkpoint, with its own settings.
        dry_run: only estimate time, memory and disk.
        unsafe_load: load checkpoints that hold pickled objects, which executes code from the file.
        checkpoint_seconds: seconds between two checkpoints.
        checkpoint_steps: iterations between two checkpoints, in place of seconds.
        evaluations: how often along the run the averaged student is scored on --data, for the curve in the report.
        onnx: write student.onnx and check it against the student.
        quiet: no progress display.
        checkpoint_key: which network of a teacher's checkpoint that holds several.
        checkpoint_prefix: which of several networks in one state_dict, by what its keys begin with.
    """
    from dreamstill.commands.distill import run_distillation

    settings = DistillSettings(
        teacher=teacher, student=student, teacher_checkpoint=teacher_checkpoint, teacher_args=teacher_args,
        student_checkpoint=student_checkpoint, student_args=student_args, method=method, preset=preset,
        num_classes=num_classes, image_size=image_size, channels=channels, mean=mean, std=std, steps=steps,
        minutes=minutes, seed=seed,
        precision=precision, compile=compile, device=device, threads=threads, data=data, split=split,
        set_size=set_size, data_root=data_root, real=real, collected=collected, transfer=transfer, out=out,
        resume=resume, dry_run=dry_run, unsafe_load=unsafe_load, checkpoint_seconds=checkpoint_seconds,
        checkpoint_steps=checkpoint_steps, evaluations=evaluations, onnx=onnx, quiet=quiet,
        checkpoint_key=checkpoint_key, checkpoint_prefix=checkpoint_prefix,
    )  # fmt: skip
    return run_distillation(settings)


def synthesize(
    run: str,
    *,
    n: int | None = None,
    out: str | None = None,
    seed: int = 0,
    unsafe_load: bool = False,
    balanced: bool = False,
    shard_size: int = 1000,
) -> str:
    """Write the synthetic images of a run with the teacher's logits, or for segmentation its class of every pixel.

    New ones of its generator, or the transfer set of a method that keeps one. A file that ends in .parquet has the
    Hugging Face image layout (image, label, logits), which dreamstill reads again as a labelled set. A folder gets
    several such files and manifest.json; given again, a command that was killed goes on at the next file.

    Args:
        run: the run folder.
        n: how many images; without it 1000, or the whole transfer set.
        out: the file to write, .safetensors or .parquet, or a folder; without it images.safetensors in the run folder,
            or transfer.parquet.
        seed: of the noise.
        unsafe_load: import the code that the run names (package.module:factory) and load pickled checkpoints.
        balanced: as many images of each class, by what the teacher takes them for.
        shard_size: images of a file in a folder.
    """
    from dreamstill.commands.synthesize import write_images

    return write_images(run, n, out, seed, unsafe_load, balanced, shard_size)


def evaluate(
    run: str,
    *,
    data: str | None = None,
    data_root: str | None = None,
    split: str = "test",
    set_size: int | list[int] | None = None,
    teacher: str | None = None,
    teacher_checkpoint: str | None = None,
    limit: int | None = None,
    unsafe_load: bool = False,
    student: Any = None,
) -> dict[str, Any]:
    """Score a student (or any network dreamstill wrote) on a real labelled set.

    Prints and returns accuracy and calibration error, or for segmentation mean IoU and pixel accuracy, and, when the
    teacher is known, agreement with it.

    Args:
        run: a run folder, or a .safetensors file that dreamstill wrote.
        data: the set: digits, a name under --data-root, a parquet file or folder, class folders, or hub:owner/name.
        data_root: the folder that holds the named sets.
        split: which split of it.
        set_size: sides that its images are brought to if not to the network's; the run's own without it.
        teacher: the teacher to compare with; the run's own if it can still be found.
        teacher_checkpoint: its weights.
        limit: only the first so many images.
        unsafe_load: load a teacher checkpoint that holds pickled objects, which executes code from the file.
        student: the network whose weights the run holds, where it was given in Python: package.module:factory, or in
            Python such an nn.Module.
    """
    from dreamstill.commands.evaluate import run_evaluation

    settings = EvaluateSettings(
        run=run, data=data, data_root=data_root, split=split, set_size=set_size, teacher=teacher,
        teacher_checkpoint=teacher_checkpoint, limit=limit, unsafe_load=unsafe_load, student=student,
    )  # fmt: skip
    return run_evaluation(settings)


def export(
    run: str,
    *,
    format: ExportFormat = "onnx",
    out: str | None = None,
    images: int = 256,
    student: Any = None,
    unsafe_load: bool = False,
) -> dict[str, Any]:
    """Write the student of a run in a form for deployment, for any batch size, checked against the student.

    Beside the file lies a JSON with what was checked, which is also returned. With 8 bits it says what the student
    loses, and size and time of teacher, student and file on this machine.

    Args:
        run: a run folder, or for the forms in float32 a .safetensors file that dreamstill wrote.
        format: onnx; onnx-int8, by onnxruntime; pt2, an exported program of torch; pt2-int8, by torchao; openvino.
        out: the file to write; without it one in the run folder.
        images: synthetic images that 8 bits are calibrated on; as many again measure the loss.
        student: the network whose weights the run holds, where it was given in Python, as in evaluate.
        unsafe_load: import the code that the run names (package.module:factory) and load pickled checkpoints.
    """
    from dreamstill.commands.export import run_export

    return run_export(ExportSettings(
        run=run, format=format, out=out, images=images, student=student, unsafe_load=unsafe_load,
    ))  # fmt: skip


def train(
    network: Any = None,
    data: str | None = None,
    *,
    split: str = "test",
    data_root: str | None = None,
    network_args: dict[str, Any] | None = None,
    image_size: int | list[int] | None = None,
    set_size: int | list[int] | None = None,
    channels: int | None = None,
    epochs: float = 20.0,
    batch_size: int = 128,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    warmup: float = 0.05,
    label_smoothing: float = 0.0,
    crop: int = 4,
    flip: bool | None = None,
    scale: float = 1.0,
    relight: float = 0.0,
    class_weights: ClassWeights = "none",
    limit: int | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    compile: Compile = "auto",
    device: str = "auto",
    out: str | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    evaluations: int = 10,
    quiet: bool = False,
) -> Network:
    """Train a network on labelled images, ordinarily: for teachers, and for yardsticks that may see the data.

    SGD with Nesterov momentum, linear warm-up, cosine to zero, crop and flip; the delivered weights are the
    average at the end of the schedule, never the best epoch on the test set.

    Args:
        network: a built-in name, package.module:factory, or in Python any nn.Module.
        data: the set to train on.
        split: which split of it is scored; another than test where settings are chosen by their scores.
        data_root: the folder that holds the named sets.
        network_args: arguments for building the network.
        image_size: side of the images, or [height, width]; the set's own without it.
        set_size: sides that the set's images are brought to, larger than image_size: every step cuts windows of
            image_size anywhere out of them; scored is the whole for segmentation, the centre for classification.
        channels: 1 or 3; the set's own without it.
        epochs: passes over the training images.
        batch_size: images a step.
        lr: peak learning rate.
        weight_decay: on all parameters.
        momentum: of SGD.
        warmup: share of the run in which the learning rate rises.
        label_smoothing: 0 to 1.
        crop: pad-and-crop shift in pixels.
        flip: mirror at random; without it, only for sets of 3-channel photographs.
        scale: below 1, in place of crop: a random rectangle of at least that share of the area, scaled up.
        relight: random change of brightness and contrast, 0 to 1.
        class_weights: of the cross-entropy: none; median: rare classes count more, by the median class's share of the
            labels over their own; root: by its square root.
        limit: only the first so many training images.
        seed: of everything random.
        precision: 32, bf16 (mixed), 64, or auto.
        compile: on, off or auto.
        device: cpu, cuda, mps or auto.
        out: the run folder; without it a new one under runs/.
        resume: go on with the run in --out from its last checkpoint, with its own network, data and settings.
        checkpoint_seconds: seconds between two checkpoints.
        evaluations: how often along the run the network is scored, for the curve.
        quiet: no progress display.
    """
    from dreamstill.commands.train import run_training

    settings = TrainSettings(
        network=network, data=data, split=split, data_root=data_root, network_args=network_args,
        image_size=image_size, set_size=set_size, channels=channels, epochs=epochs, batch_size=batch_size, lr=lr,
        weight_decay=weight_decay, momentum=momentum, warmup=warmup, label_smoothing=label_smoothing, crop=crop,
        flip=flip, scale=scale, relight=relight, class_weights=class_weights, limit=limit, seed=seed,
        precision=precision, compile=compile, device=device, out=out, resume=resume,
        checkpoint_seconds=checkpoint_seconds, evaluations=evaluations, quiet=quiet,
    )  # fmt: skip
    return run_training(settings)


def doctor(
    teacher: str,
    *,
    checkpoint: str | None = None,
    teacher_args: dict[str, Any] | None = None,
    num_classes: int | None = None,
    image_size: int | list[int] | None = None,
    channels: int | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    unsafe_load: bool = False,
    json: bool = False,
    checkpoint_key: str | None = None,
    checkpoint_prefix: str | None = None,
) -> dict[str, Any]:
    """Look a teacher over: does it load, what does it give, is its normalisation plausible, which methods fit.

    Args:
        teacher: a built-in name, package.module:factory, or a run folder.
        checkpoint: its weights.
        teacher_args: arguments for building it.
        num_classes: how many classes it tells apart.
        image_size: side of the images; 32 if nothing says.
        channels: channels of the images; read off the first layer if nothing says.
        mean: per channel, what its training subtracted.
        std: per channel, what its training divided by.
        unsafe_load: load a checkpoint that holds pickled objects, which executes code from the file.
        json: print JSON.
        checkpoint_key: which network of a checkpoint that holds several.
        checkpoint_prefix: which of several networks in one state_dict, by what its keys begin with.
    """
    from dreamstill.commands.doctor import run_doctor

    settings = DoctorSettings(
        teacher=teacher, checkpoint=checkpoint, teacher_args=teacher_args, num_classes=num_classes,
        image_size=image_size, channels=channels, mean=mean, std=std, unsafe_load=unsafe_load, json=json,
        checkpoint_key=checkpoint_key, checkpoint_prefix=checkpoint_prefix,
    )  # fmt: skip
    return run_doctor(settings)


def methods(name: str | None = None, *, json: bool = False) -> list[dict[str, Any]]:
    """List the methods and controls: paper, what each needs of a teacher, what outside information it uses.

    Args:
        name: show the settings of this one: default, range, meaning and where the default comes from.
        json: print JSON.
    """
    from dreamstill.commands.methods import list_methods

    return list_methods(name, json)


def demo(*, out: str = "runs/demo", seed: int = 0, steps: int | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train a teacher on handwritten digits, forget the digits, distil a student a tenth its size, compare them.

    Args:
        out: the run folder; an earlier demo in it is replaced.
        seed: of everything random.
        steps: budget in student steps; the demo's own without it.
        quiet: no progress display.
    """
    from dreamstill.commands.demo import run_demo

    return run_demo(out, seed, steps, quiet)


def profile(
    recipe: str,
    *,
    device: str | None = None,
    precision: Precision | None = None,
    compile: Compile | None = None,
    teacher: str | None = None,
    num_classes: int | None = None,
    image_size: int | list[int] | None = None,
    channels: int | None = None,
    growth: bool = True,
    out: str | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Take a recipe's iteration apart: operations, bytes and time of each part, and the floor this machine sets.

    Needs no data, and where the recipe's checkpoint is not there, no weights: fresh ones take as long. Writes
    profile.json and profile.html with a roofline.

    Args:
        recipe: a YAML file of dreamstill distill's arguments.
        device: cpu, cuda, mps or auto; without it the recipe's own, or auto.
        precision: 32, bf16, 64 or auto; without it the recipe's own, or auto.
        compile: on: also measure the compiled iteration, and what compiling takes; without it the recipe's own, or off.
        teacher: the teacher's name where neither its checkpoint nor the recipe says it.
        num_classes: the number of classes, if neither checkpoint nor recipe says it.
        image_size: side of the images, or [height, width], if neither checkpoint nor recipe says it.
        channels: channels of the images, if neither checkpoint nor recipe says it; 3 without it.
        growth: also measure how the time grows with batch, image side and class count.
        out: the folder to write to; without it a new one under runs/.
        json: print JSON.
    """
    from dreamstill.commands.profiling.command import run_profile

    settings = ProfileSettings(
        recipe=recipe, device=device, precision=precision, compile=compile, teacher=teacher,
        num_classes=num_classes, image_size=image_size, channels=channels, growth=growth, out=out, json=json,
    )  # fmt: skip
    return run_profile(settings)


def bench(
    suite: str,
    *,
    data_root: str | None = None,
    seeds: list[int] | None = None,
    tables: list[str] | None = None,
    rows: list[str] | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> str:
    """Run a suite of recipes over seeds, skip what is recorded, and make its table from the records.

    Records go to benchmarks/records/SUITE/, one JSON a run, the tables to docs/results/SUITE.md, and the best rows to
    RESULTS.md and README.md. A stopped suite goes on where it was.

    Args:
        suite: a name in benchmarks/, or a suite's YAML file.
        data_root: the folder that holds the named sets.
        seeds: run only these of the seeds.
        tables: run only these tables of a suite that has several.
        rows: run only these rows.
        jobs: runs side by side, each in a process with its share of the cores.
        quiet: no progress display.
    """
    from dreamstill.commands.bench.run import run_bench

    return run_bench(suite, data_root, seeds, tables, rows, jobs, quiet)
