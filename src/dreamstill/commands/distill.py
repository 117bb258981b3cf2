"""``dreamstill distill``: resolve what the user gave, check it before anything is written, run, deliver."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamstill.data.bank import ImageBank
from dreamstill.data.image_set import ImageSet
from dreamstill.data.transfer_set import kept, write_set
from dreamstill.engine import Given, Hardware, choose
from dreamstill.errors import InputError
from dreamstill.methods import Method
from dreamstill.networks import state_dicts
from dreamstill.networks.export_onnx import export_onnx
from dreamstill.networks.load import FACTS, checkpoint_file
from dreamstill.networks.network import Network
from dreamstill.report import write_report
from dreamstill.runs import budget, inputs
from dreamstill.runs.folder import new_folder
from dreamstill.runs.manifest import read_manifest
from dreamstill.runs.plan import Finished, Plan, anywhere
from dreamstill.runs.resume import resumed, same_inputs
from dreamstill.runs.run import CURVE_IMAGES, carry_out
from dreamstill.runs.settings import DEFAULT_STEPS, build_method, check_run, method_spec
from dreamstill.runs.summary import write_results
from dreamstill.runs.synthetic_images import look_at_images
from dreamstill.tasks import task_of
from dreamstill.tasks.checks import check_size, warn_of_overlap

# Not in config.yaml: where and how it runs; and trust in a file is not handed on to whoever repeats the run.
_UNSAVED = ("out", "resume", "quiet", "dry_run", "minutes", "unsafe_load")


def run_distillation(settings: dict[str, Any], defaults: Mapping[str, Any]) -> Network | None:
    """Carry out :func:`dreamstill.api.distill`, whose arguments have these ``defaults``."""
    began = time.monotonic()
    if settings["resume"]:
        settings = resumed(defaults, settings)
    else:
        inputs.check_used(settings)
    check_run(settings)
    method = build_method(settings["method"])
    teacher = inputs.resolve_teacher(settings)
    student = inputs.resolve_student(settings, teacher)
    inputs.check(method, teacher, student)
    test = inputs.test_set(settings, teacher)
    given, collected, stored = inputs.brought(settings, method, teacher, student)
    for trained in (settings["real"], settings.get("collected")):
        if trained is not None:
            warn_of_overlap(trained, settings["data"], test)
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


# ---------------------------------------------------------------- the budget


def _budget(
    settings: dict[str, Any], method: Method, given: Given, test: ImageSet | None, began: float
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


def _evaluation_seconds(test: ImageSet | None, evaluations: int, given: Given) -> float:
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
        **{k: about[k] for k in FACTS},
        "method": method_spec(method),
        "steps": steps,
        "device": hardware.device,
        "precision": hardware.precision,
        "compile": "on" if hardware.compile else "off",
    }


def _file_facts(settings: dict[str, Any], teacher: Network) -> dict[str, Any]:
    tensors = state_dicts.fingerprint(teacher.module)  # before the engine gives it another precision
    if settings["teacher_checkpoint"] is None:
        return {"file": None, "sha256": tensors, "fingerprint": tensors}
    file = checkpoint_file(Path(settings["teacher_checkpoint"]))
    return {"file": str(file), "sha256": state_dicts.sha256(file), "fingerprint": tensors}


def _student_facts(settings: dict[str, Any]) -> dict[str, Any]:
    """Where a student's first weights come from, if not from the seed, and what was used in making those."""
    given = {k: v for k, v in (settings["student_args"] or {}).items() if k.endswith("weights") and v is not None}
    outside = [f"the student's {key}: {value}" for key, value in given.items()]
    if settings["student_checkpoint"] is None:
        return {"outside": outside}
    folder = Path(settings["student_checkpoint"])
    file = checkpoint_file(folder)
    outside.append(f"the student's first weights, {file.name} of SHA-256 {(digest := state_dicts.sha256(file))[:12]}")
    if (folder / "manifest.json").is_file():
        outside += [f"{used} (for them)" for used in read_manifest(folder)["outside_information"]]
    return {"outside": outside, "file": str(file.resolve()), "sha256": digest}


# ---------------------------------------------------------------- what is left behind


def _finish(done: Finished, onnx: bool) -> None:
    write_results(done, lambda done: _own_results(done, onnx))
    # Last of all, because its presence says that the run is finished.
    write_report(done.plan.out)


def _own_results(done: Finished, onnx: bool) -> dict[str, Any]:
    """Samples, what the teacher sees in them, the transfer set of a method that keeps one, the exported student."""
    plan = done.plan
    found = look_at_images(done) | plan.method.facts()
    if (bank := plan.method.transfer_set()) is not None:
        _write_set(plan, bank)
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
