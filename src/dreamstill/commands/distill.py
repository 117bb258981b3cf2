"""``dreamstill distill``: resolve what the user gave, check it before anything is written, run, deliver."""

from __future__ import annotations

import time
from typing import Any

from dreamstill.data.bank import ImageBank
from dreamstill.data.transfer_set import kept, write_set
from dreamstill.errors import InputError, first_line, user_error
from dreamstill.messages import say
from dreamstill.networks.export_onnx import export_onnx
from dreamstill.report import write_report
from dreamstill.report.card import write_card
from dreamstill.runs.certificate import certify
from dreamstill.runs.feature_spread import feature_spread
from dreamstill.runs.inputs import check_used
from dreamstill.runs.memory import in_words
from dreamstill.runs.plan import Finished, Plan, plan_run
from dreamstill.runs.random_numbers import kept_random_streams, kept_threads
from dreamstill.runs.resolve import Resolved, resolve_run
from dreamstill.runs.result import Result, read_result
from dreamstill.runs.resume import resumed, started_again
from dreamstill.runs.run import carry_out
from dreamstill.runs.settings import DistillSettings
from dreamstill.runs.summary import write_results
from dreamstill.runs.synthetic_images import look_at_images

_SMALLER = (
    "give a lower --method.batch-size, or a smaller generator by --method.width; dreamstill distill --dry-run says "
    "what fits"
)


@kept_random_streams()
def run_distillation(settings: DistillSettings) -> Result | None:
    """Carry out :func:`dreamstill.api.distill`."""
    began = time.monotonic()
    settings.check()
    if settings.resume or started_again(settings):
        settings = resumed(settings)
    else:
        check_used(settings)
    with kept_threads(), in_words(_SMALLER):
        return _distil(resolve_run(settings, began), began)


def _distil(found: Resolved, began: float) -> Result | None:
    settings = found.settings
    if settings.dry_run:
        say(found.estimate)
        return None
    plan = plan_run(settings, found.method, found.inputs, found.hardware, found.steps, began, found.ends, found.out)
    result = read_result(carry_out(plan, _finish), plan.out)
    if not settings.quiet and result.figures:
        say(repr(result))
    return result


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
    for name, look in (("certificate", certify), ("spread", feature_spread)):
        try:
            found |= look(done)
        except (RuntimeError, InputError) as error:  # as below: the student is trained, and memory may be short
            found[f"{name}_error"] = first_line(error)
            say(f"no {name}: {found[f'{name}_error']}")
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
            say(f"no student.onnx: {found['onnx_error']}")
    return found


def _write_set(plan: Plan, bank: ImageBank) -> None:
    teacher, test = plan.inputs.given.teacher, plan.inputs.test
    classes = test.classes if test is not None else [str(i) for i in range(teacher.num_classes)]
    about = {"run": plan.out.name, "seed": plan.settings.seed, "method": plan.method_spec}
    about |= {"teacher_sha256": plan.inputs.teacher_weights.fingerprint, "outside": plan.outside}
    try:
        write_set(plan.out / "transfer.parquet", kept(bank), teacher, classes, about)
    except InputError as error:  # the student is trained: images that PNG does not take must not cost the run
        say(f"no transfer.parquet: {error}")
