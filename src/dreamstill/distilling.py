"""``dreamstill distill``: resolve what the user gave, check it before anything is written, run, deliver."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamstill import api, budget, data, doctor, fits, state_files, weights
from dreamstill.adapters import Network
from dreamstill.banks import ImageBank, to_uint8
from dreamstill.collected import Collected, enough, load_collected
from dreamstill.config import build_method, check_run, method_spec
from dreamstill.engine import Given, Hardware, choose, stream
from dreamstill.errors import InputError
from dreamstill.export import export_onnx
from dreamstill.files import atomic_write
from dreamstill.methods import Method
from dreamstill.obeyed import obeyed
from dreamstill.resuming import resumed, same_inputs
from dreamstill.running import CURVE_IMAGES, Finished, Plan, anywhere, carry_out
from dreamstill.state import new_folder
from dreamstill.storage import nearest
from dreamstill.tasks import check_batch, check_set, check_size, load_scored, loaded_size, task_of, warn_of_overlap
from dreamstill.transfer import TransferSet, kept, read_parquet, write_set

DEFAULT_STEPS = 5_000
# Not in config.yaml: where and how it runs; and trust in a file is not handed on to whoever repeats the run.
_UNSAVED = ("out", "resume", "quiet", "dry_run", "minutes", "unsafe_load")


def run_distillation(settings: dict[str, Any]) -> Network | None:
    """Carry out :func:`dreamstill.api.distill`."""
    began = time.monotonic()
    if settings["resume"]:
        settings = resumed(api.distill, settings)
    else:
        _check_used(settings)
    check_run(settings)
    method = build_method(settings["method"])
    teacher = resolve_teacher(settings)
    student = resolve_student(settings, teacher)
    _check(method, teacher, student)
    test, (pixels, labels) = _test_set(settings, teacher), real_images(settings, method, teacher)
    if settings["real"] is not None and settings["data"] is not None:
        warn_of_overlap(settings["real"], settings["data"], test)
    collected = collected_images(settings, method, teacher)
    if collected is not None and settings["data"] is not None:
        warn_of_overlap(settings["collected"], settings["data"], test)
    stored = transfer_set(settings, method, teacher)
    given = Given(teacher, student, pixels, labels, None if collected is None else collected.pixels)
    if stored is not None:
        given.transfer_pixels, given.transfer_logits = stored.pixels, stored.logits
    if test is not None:
        check_size(student, (test.pixels.shape[2], test.pixels.shape[3]))
    hardware, steps = _budget(settings, method, given, test, began)
    if steps is None:
        return None
    out = Path(settings["out"]) if settings["out"] else new_folder(Path("runs"), method_spec(method)["name"])
    plan = Plan(
        "distill", _resolved(settings, method, teacher, student, hardware, steps), out, settings["resume"],
        settings["quiet"], method, given, test, steps, "student.safetensors", _file_facts(settings, teacher),
        began=began, collected=collected, stored=stored, student_file=_student_facts(settings),
    )  # fmt: skip
    if settings["resume"]:
        same_inputs(plan)
    delivered = carry_out(plan, lambda done: _finish(done, settings["onnx"]))
    if not settings["quiet"] and (out / "summary.json").exists():
        print(table(out))
    return delivered.requires_grad_(True).eval()  # it may be a student again


# ---------------------------------------------------------------- what was given


def _check_used(settings: dict[str, Any]) -> None:
    """Nothing that was given may go unused without a word."""
    given = {user for user in ("data", "real", "collected") if settings[user] is not None}
    if settings["split"] != "test" and "data" not in given:
        raise InputError(f"--split is {settings['split']} and nothing uses it: give --data too, or leave it out")
    if settings["data_root"] is not None and not given:
        raise InputError(
            f"--data-root is {settings['data_root']} and nothing uses it: give --data, --real or --collected too, or "
            "leave it out"
        )
    if settings["set_size"] is not None and not given & {"data", "real"}:  # recipes have it for whoever has the set
        print(f"set_size is {settings['set_size']} and changes nothing: there is neither --data nor --real", flush=True)


def resolve_teacher(settings: dict[str, Any]) -> Network:
    """The teacher as a network of its own, whatever it was given as."""
    teacher, checkpoint = settings["teacher"], settings["teacher_checkpoint"]
    if isinstance(teacher, Network):
        return copy.deepcopy(teacher).cpu()  # the engine places it
    facts = {k: settings[k] for k in weights.FACTS}
    if isinstance(teacher, nn.Module):
        facts["channels"] = facts["channels"] or 3
        for key in ("num_classes", "image_size"):
            if facts[key] is None:
                raise InputError(f"{key} is missing: a bare nn.Module does not say it, so give {key}=")
        return Network(copy.deepcopy(teacher).cpu(), **facts)
    if teacher is None and checkpoint is None:
        raise InputError("no teacher: name one with --teacher, and its weights with --teacher-checkpoint")
    weights.has_weights(teacher, checkpoint)
    return weights.resolve(
        teacher, checkpoint, kwargs=settings["teacher_args"], unsafe=settings["unsafe_load"], **facts
    )


def resolve_student(settings: dict[str, Any], teacher: Network) -> Network:
    """The student; what it is not told it takes from the teacher."""
    student = settings["student"]
    if isinstance(student, Network):
        return copy.deepcopy(student).cpu()
    about = teacher.description()
    facts = {k: about[k] for k in weights.FACTS}
    if isinstance(student, nn.Module):
        return Network(copy.deepcopy(student).cpu(), **facts)
    if student is None and settings["student_checkpoint"] is None:
        raise InputError("no student: name one with --student, wrn_16_1 for instance")
    # Not the seed alone: a teacher that was trained here with the same one would have begun at the student's weights.
    torch.manual_seed(stream(settings["seed"], "student"))
    checkpoint = settings["student_checkpoint"]
    return weights.resolve(student, checkpoint, kwargs=settings["student_args"], role="student", **facts)


def _test_set(settings: dict[str, Any], teacher: Network) -> data.ImageSet | None:
    if settings["data"] is None:
        return None
    test = load_scored(
        teacher, settings["data"], settings["split"], root=settings["data_root"], set_size=settings["set_size"]
    )
    if test.labels is None:
        raise InputError(f"{settings['data']} has no labels: --data is for scoring and needs them")
    return test


def real_images(settings: dict[str, Any], method: Method, teacher: Network) -> tuple[Any, Any]:
    """Pixels and labels for a control that looks at real images; None for all others."""
    if "real" not in method.needs:
        if settings["real"] is not None:
            raise InputError(
                f"{type(method).__name__} does not look at real images: leave out --real {settings['real']}"
            )
        return None, None
    if settings["real"] is None:
        raise InputError(f"{type(method).__name__} trains on real images and none were given: name the set with --real")
    size = loaded_size(settings.get("set_size"), teacher.image_size)  # runs of earlier versions do not have it
    real = data.load(settings["real"], "train", root=settings["data_root"], image_size=size, channels=teacher.channels)
    check_set(real, teacher)
    if real.labels is not None:
        return real.pixels, real.labels
    if getattr(method, "loss", None) == "labels":
        raise InputError(
            f"{settings['real']} has no labels, which loss: labels learns from: give a labelled set, or kd"
        )
    if task_of(teacher).name == "segmentation":
        return real.pixels, torch.full((len(real), *real.pixels.shape[2:]), data.VOID, dtype=torch.uint8)
    return real.pixels, torch.zeros(len(real), dtype=torch.int64)


def collected_images(settings: dict[str, Any], method: Method, teacher: Network) -> Collected | None:
    """The images that somebody gathered, for methods that need them, after counting what of them can be read."""
    source = settings.get("collected")  # runs of earlier versions do not have it
    name = type(method).__name__
    if "collected" not in method.needs:
        if source is not None:
            raise InputError(f"{name} does not look at collected images: leave out --collected {source}")
        return None
    if source is None:
        raise InputError(
            f"{name} learns from collected images and none were given: name a folder or set with --collected"
        )
    collected = load_collected(
        source, root=settings["data_root"], image_size=teacher.image_size, channels=teacher.channels
    )
    enough(collected, getattr(method, "batch_size", 0), teacher.num_classes)
    return collected


def transfer_set(settings: dict[str, Any], method: Method, teacher: Network) -> TransferSet | None:
    """The stored transfer set, for the method that learns from one; None for all others."""
    source = settings.get("transfer")
    name = type(method).__name__
    if "transfer" not in method.needs:
        if source is not None:
            raise InputError(f"{name} makes its own images: leave out --transfer {source}, or take --method transfer")
        return None
    if source is None:
        raise InputError(f"{name} learns from a stored transfer set and none was given: name it with --transfer")
    return read_parquet(source, teacher, nearest(Path(settings.get("out") or ".")))


def _check(method: Method, teacher: Network, student: Network) -> None:
    """Everything that can be known before the first step is written."""
    doctor.check_output(teacher)
    doctor.check_output(student, role="student")
    lacking = fits.missing(method, teacher)
    if lacking:
        raise InputError(f"{type(method).__name__} needs of its teacher: {'; '.join(lacking)}")
    theirs, mine = task_of(teacher), task_of(student)
    if theirs.name != mine.name:
        raise InputError(
            f"the teacher {teacher.name} gives {theirs.output} and the student {student.name} {mine.output}: give a "
            f"student for {theirs.name}"
        )
    check_batch(student, getattr(method, "batch_size", 2))


# ---------------------------------------------------------------- the budget


def _budget(
    settings: dict[str, Any], method: Method, given: Given, test: data.ImageSet | None, began: float
) -> tuple[Hardware, int | None]:
    """Hardware and steps, resolved; None for the steps after a dry run, which prints its estimate."""
    steps, minutes = settings["steps"], settings["minutes"]
    if steps is not None and minutes is not None:
        raise InputError("both --steps and --minutes were given: choose one budget")
    for name, value in (("steps", steps), ("minutes", minutes)):
        if value is not None and value <= 0:
            raise InputError(f"{name} is {value}: it must be positive")
    work = budget.work(method, given)
    guess = steps or (DEFAULT_STEPS if minutes is None else round(minutes * 60 * 1e11 / work))
    hardware = choose(settings["device"], settings["precision"], settings["compile"], guess * work)
    hardware = budget.agreed(hardware, hardware)  # auto tries how fast this process is
    if minutes is None and not settings["dry_run"]:
        return hardware, steps or DEFAULT_STEPS
    trial = budget.measure(
        lambda: build_method(method), given, hardware, settings["seed"],
        watch=lambda placed: _evaluation_seconds(test, settings["evaluations"], placed),
    )  # fmt: skip
    spent = time.monotonic() - began
    trial, spent = budget.agreed((trial, spent), hardware)
    if minutes is not None:
        left = minutes * 60 - trial.watching - budget.FINISHING_SECONDS - spent
        steps = budget.steps_for(left, trial, method)
    steps = steps or DEFAULT_STEPS
    if settings["dry_run"]:
        print(budget.describe(trial, method, steps))
        return hardware, None
    return hardware, steps


def _evaluation_seconds(test: data.ImageSet | None, evaluations: int, given: Given) -> float:
    if test is None:
        return 0.0
    task = task_of(given.teacher)
    some = test.pixels[: min(256, task.looked_at)]
    started = time.perf_counter()
    task.predict(given.student, some)
    student = time.perf_counter() - started
    task.predict(given.teacher, some)
    both = time.perf_counter() - started
    return (evaluations * min(len(test), CURVE_IMAGES) * student + len(test) * (both + student)) / len(some)


def _resolved(
    settings: dict[str, Any], method: Method, teacher: Network, student: Network, hardware: Hardware, steps: int
) -> dict[str, Any]:
    """What goes into config.yaml: no ``auto`` and no ``minutes`` left in it, and paths that hold from anywhere."""
    config = anywhere({k: v for k, v in settings.items() if k not in _UNSAVED})
    for key, network in (("teacher", teacher), ("student", student)):
        config[key] = network.name
    about = teacher.description()
    return config | {
        **{k: about[k] for k in weights.FACTS},
        "method": method_spec(method),
        "steps": steps,
        "device": hardware.device,
        "precision": hardware.precision,
        "compile": "on" if hardware.compile else "off",
    }


def _file_facts(settings: dict[str, Any], teacher: Network) -> dict[str, Any]:
    tensors = state_files.fingerprint(teacher.module)  # before the engine gives it another precision
    if settings["teacher_checkpoint"] is None:
        return {"file": None, "sha256": tensors, "fingerprint": tensors}
    file = weights.checkpoint_file(Path(settings["teacher_checkpoint"]))
    return {"file": str(file), "sha256": state_files.sha256(file), "fingerprint": tensors}


def _student_facts(settings: dict[str, Any]) -> dict[str, Any]:
    """Where a student's first weights come from, if not from the seed, and what was used in making those."""
    given = {k: v for k, v in (settings["student_args"] or {}).items() if k.endswith("weights") and v is not None}
    outside = [f"the student's {key}: {value}" for key, value in given.items()]
    if settings["student_checkpoint"] is None:
        return {"outside": outside}
    folder = Path(settings["student_checkpoint"])
    file, known = weights.checkpoint_file(folder), folder / "manifest.json"
    outside.append(f"the student's first weights, {file.name} of SHA-256 {(digest := state_files.sha256(file))[:12]}")
    if folder.is_dir() and known.is_file():
        try:
            outside += [f"{used} (for them)" for used in json.loads(known.read_text())["outside_information"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{known} does not say what the student's first weights were made from ({type(error).__name__}): give "
                f"the file {file} itself, or a whole run folder"
            ) from error
    return {"outside": outside, "file": str(file.resolve()), "sha256": digest}


# ---------------------------------------------------------------- what is left behind


def _finish(done: Finished, onnx: bool) -> dict[str, Any]:
    """Samples, what the teacher sees in them, the transfer set of a method that keeps one, the exported student."""
    plan = done.plan
    facts = getattr(plan.method, "facts", None)
    found = _look_at_images(done) | (facts() if facts is not None else {})
    keeps = getattr(plan.method, "transfer_set", None)
    if keeps is not None:
        _write_set(plan, keeps())
    found["clipped_share"] = max([found["clipped_share"], *(b.clipped_share for b in done.engine.banks.values())])
    if onnx:
        try:
            found["onnx"] = export_onnx(done.network, plan.out / "student.onnx")
        except InputError as error:  # the student is trained and saved: this must not cost the run
            found["onnx_error"] = str(error)
            print(f"no student.onnx: {error}", flush=True)
    return found


def _write_set(plan: Plan, bank: ImageBank) -> None:
    teacher = plan.given.teacher
    classes = plan.test.classes if plan.test is not None else [str(i) for i in range(teacher.num_classes)]
    about = {"run": plan.out.name, "seed": plan.config["seed"], "method": plan.config["method"]}
    about |= {"teacher_sha256": plan.teacher_file["fingerprint"], "outside": plan.outside}
    try:
        write_set(plan.out / "transfer.parquet", kept(bank), teacher, classes, about)
    except InputError as error:  # the student is trained: images that PNG does not take must not cost the run
        print(f"no transfer.parquet: {error}", flush=True)


def _look_at_images(done: Finished) -> dict[str, Any]:
    plan, images = done.plan, done.images
    teacher, k = plan.given.teacher, plan.given.teacher.num_classes
    assert images is not None
    task = done.engine.task
    # As the student saw them: what a picture has to clip may be a good part of what the teacher goes by.
    predicted = task.predict(teacher, images)
    classes: Sequence[str] | None = plan.test.classes if plan.test is not None else None
    atomic_write(plan.out / "samples.png", task.samples(to_uint8(images).cpu(), predicted, k, classes))
    return {
        "class_histogram": torch.bincount(predicted.flatten(), minlength=k).tolist(),
        "clipped_share": float(((images < 0) | (images > 1)).float().mean()),
        "agreement_synthetic": float((task.predict(done.network, images) == predicted).double().mean()),
        **obeyed(plan.method, done.engine),
    }


def table(out: Path) -> str:
    """A finished run's figures, in a few lines for the terminal."""
    summary = json.loads((out / "summary.json").read_text())
    teacher, student = summary["teacher"], summary["student"]
    rows = [("", "teacher", "student"), ("network", teacher["name"], student["name"])]
    rows += [(k, f"{teacher[k]:,}", f"{student[k]:,}") for k in ("params", "flops")]
    if "accuracy" in student:
        rows.append(("accuracy", f"{teacher['accuracy']:.2%}", f"{student['accuracy']:.2%}"))
        if "relative_accuracy" in summary:
            rows.append(("relative accuracy", "", f"{summary['relative_accuracy']:.2%}"))
    elif "miou" in student:
        for key, name in (("miou", "mean IoU"), ("pixel_accuracy", "pixel accuracy")):
            rows.append((name, f"{teacher[key]:.2%}", f"{student[key]:.2%}"))
    if "agreement" in summary:
        rows.append(("agreement", "", f"{summary['agreement']:.2%}"))
    else:
        rows.append(("agreement on synthetic images", "", f"{summary['agreement_synthetic']:.2%}"))
    widths = [max(len(r[i]) for r in rows) for i in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
    took = budget.clock(summary["wall_seconds"])
    return "\n".join([*lines, f"{summary['steps']} steps in {took}; {out / 'report.html'}"])
