"""The public functions, the same for Python and for the command line. Torch is imported only when one is called."""

from __future__ import annotations

from typing import Any

from dreamstill.api.distillation import distill
from dreamstill.api.exporting import export
from dreamstill.api.training import train
from dreamstill.runs.settings import (
    Compile,
    DoctorSettings,
    EvaluateSettings,
    Precision,
    ProfileSettings,
)

__all__ = [
    "bench",
    "compare",
    "demo",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "methods",
    "profile",
    "synthesize",
    "train",
]


def synthesize(
    run: str,
    *,
    n: int | None = None,
    out: str | None = None,
    seed: int = 0,
    unsafe_load: bool = False,
    trust_code: bool = False,
    teacher: Any = None,
    student: Any = None,
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
        unsafe_load: load pickled checkpoints, which executes code from the file. Includes trust_code.
        trust_code: import the package.module:factory that the run names; its pickles stay refused. A run that you made
            on this machine needs neither.
        teacher: the run's teacher, where it was given in Python: package.module:factory. In Python also such an
            nn.Module, with its weights.
        student: the run's student, in the same ways; its weights are in the run.
        balanced: as many images of each class, by what the teacher takes them for.
        shard_size: images of a file in a folder.
    """
    from dreamstill.commands.synthesize import write_images

    return write_images(
        run, n, out, seed, unsafe_load, balanced, shard_size, trust_code, teacher=teacher, student=student
    )


def evaluate(
    run: str,
    *,
    data: str | None = None,
    data_root: str | None = None,
    split: str = "test",
    set_size: int | list[int] | None = None,
    teacher: Any = None,
    teacher_checkpoint: str | None = None,
    limit: int | None = None,
    unsafe_load: bool = False,
    student: Any = None,
    images: str | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Score a student (or any network dreamstill wrote) on real images, with labels or without.

    With labels: accuracy and calibration error, or for segmentation mean IoU and pixel accuracy, and, when the teacher
    is known, agreement with it. Without labels (--images): agreement with the teacher, overall and for each class that
    the teacher sees, and the calibration of the student's confidence against it.

    Args:
        run: a run folder, or a .safetensors file that dreamstill wrote.
        data: the set: digits, a name under --data-root, a parquet file or folder, class folders, or hub:owner/name.
        data_root: the folder that holds the named sets.
        split: which split of it.
        set_size: sides that its images are brought to if not to the network's; the run's own without it.
        teacher: the teacher to compare with; the run's own if it can still be found. In Python also any nn.Module.
        teacher_checkpoint: its weights.
        limit: only the first so many images.
        unsafe_load: load a teacher checkpoint that holds pickled objects, which executes code from the file.
        student: the network whose weights the run holds, where it was given in Python: package.module:factory. In
            Python also such an nn.Module.
        images: unlabelled photographs: a folder at any depth, a parquet file, or hub:owner/name. Files that cannot be
            read are left out.
        trust_code: import the package.module:factory that the run names; its pickles stay refused. A run that you made
            on this machine needs neither.
    """
    from dreamstill.commands.evaluate import run_evaluation

    settings = EvaluateSettings(
        run=run, data=data, data_root=data_root, split=split, set_size=set_size, teacher=teacher,
        teacher_checkpoint=teacher_checkpoint, limit=limit, unsafe_load=unsafe_load, student=student,
        images=images, trust_code=trust_code,
    )  # fmt: skip
    return run_evaluation(settings)


def compare(runs: list[str], *, out: str | None = None) -> str:
    """Write one offline page that compares finished runs.

    Their figures side by side, learning curves and loss terms over each other, the settings in which they differ, and
    the images that they learnt from. Returns where the page is.

    Args:
        runs: the run folders, 2 to 12.
        out: the file to write; without it comparison.html.
    """
    from dreamstill.commands.compare import compare_runs

    return compare_runs(runs, out)


def doctor(
    teacher: str,
    *,
    checkpoint: str | None = None,
    teacher_args: dict[str, Any] | None = None,
    num_classes: int | None = None,
    image_size: int | list[int] | None = None,
    channels: int | None = None,
    mean: list[float] | float | None = None,
    std: list[float] | float | None = None,
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
        mean: what its training subtracted: one number a channel, or one for all.
        std: what its training divided by: one number a channel, or one for all.
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
