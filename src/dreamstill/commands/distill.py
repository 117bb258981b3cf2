"""``dreamstill distill``: resolve what the user gave, check it before anything is written, run, deliver."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dreamstill.data.bank import ImageBank
from dreamstill.data.transfer_set import kept, write_set
from dreamstill.errors import InputError, first_line, user_error
from dreamstill.networks.export_onnx import export_onnx
from dreamstill.networks.network import Network
from dreamstill.report import write_report
from dreamstill.report.card import write_card
from dreamstill.runs.certificate import certify
from dreamstill.runs.duration import duration
from dreamstill.runs.feature_spread import feature_spread
from dreamstill.runs.inputs import check_used
from dreamstill.runs.plan import Finished, Plan, plan_run
from dreamstill.runs.random_numbers import kept_random_streams, kept_threads
from dreamstill.runs.resolve import Resolved, resolve_run
from dreamstill.runs.resume import resumed, started_again
from dreamstill.runs.run import carry_out
from dreamstill.runs.settings import DistillSettings
from dreamstill.runs.summary import write_results
from dreamstill.runs.synthetic_images import look_at_images


@kept_random_streams()
def run_distillation(settings: DistillSettings) -> Network | None:
    """Carry out :func:`dreamstill.api.distill`."""
    began = time.monotonic()
    if settings.resume or started_again(settings):
        settings = resumed(settings)
    else:
        check_used(settings)
    settings.check()
    with kept_threads():
        return _distil(resolve_run(settings, began), began)


def _distil(found: Resolved, began: float) -> Network | None:
    settings = found.settings
    if settings.dry_run:
        print(found.estimate)
        return None
    plan = plan_run(settings, found.method, found.inputs, found.hardware, found.steps, began, found.ends)
    delivered = carry_out(plan, _finish)
    if not settings.quiet and (plan.out / "summary.json").exists():
        print(table(plan.out))
    return delivered


# ---------------------------------------------------------------- what is left behind


def _finish(done: Finished) -> None:
    write_results(done, _own_results)
    write_card(done.plan.out)
    # Last of all, because its presence says that the run is finished.
    write_report(done.plan.out)


def _own_results(done: Finished) -> dict[str, Any]:
    """Samples, what the teacher sees in them, the transfer set of a method that keeps one, the exported student."""
    plan = done.plan
    found = look_at_images(done) | plan.method.facts()
    try:
        found |= certify(done)
    except (RuntimeError, InputError) as error:  # as below: the student is trained, and memory may be short
        found["certificate_error"] = first_line(error)
        print(f"no certificate: {found['certificate_error']}", flush=True)
    found |= feature_spread(done)
    if (ranking := plan.method.ranking) is not None:
        found["collected"] = ranking.facts(plan.inputs.given.teacher.num_classes)
    if (bank := plan.method.transfer_set()) is not None:
        _write_set(plan, bank)
    found["clipped_share"] = max([found["clipped_share"], *(b.clipped_share for b in done.engine.banks.values())])
    if isinstance(plan.settings, DistillSettings) and plan.settings.onnx:
        try:
            found["onnx"] = export_onnx(done.network, plan.out / "student.onnx")
        except Exception as error:  # the student is trained and saved: this must not cost the run
            found["onnx_error"] = str(error) if isinstance(error, InputError) else user_error(error)
            print(f"no student.onnx: {found['onnx_error']}", flush=True)
    return found


def _write_set(plan: Plan, bank: ImageBank) -> None:
    teacher, test = plan.inputs.given.teacher, plan.inputs.test
    classes = test.classes if test is not None else [str(i) for i in range(teacher.num_classes)]
    about = {"run": plan.out.name, "seed": plan.settings.seed, "method": plan.method_spec}
    about |= {"teacher_sha256": plan.inputs.teacher_weights.fingerprint, "outside": plan.outside}
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
    elif "certificate" in summary:
        rows.append(("agreement on unseen images", "", f"{summary['certificate']['agreement']:.1%}"))
    widths = [max(len(r[i]) for r in rows) for i in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
    lines.append(f"{summary['steps']} steps in {duration(summary['wall_seconds'])}; {out / 'report.html'}")
    verdict = summary["verdict"]
    return "\n".join([*lines, f"{verdict['word']}: {verdict['reasons'][0]}", f"next: {verdict['next']}"])
