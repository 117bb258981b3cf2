"""The budget: what is laid into the minutes, and what is said where they do not do."""

from functools import partial

import plan
import pytest
import torch
from helpers.networks import make_given, tiny_network
from helpers.processes import two_ranks

import dreamstill
from dreamstill.engine import Hardware
from dreamstill.errors import InputError
from dreamstill.methods.ddad import DDAD
from dreamstill.methods.hidfd import HiDFD
from dreamstill.methods.soft_target import SoftTarget
from dreamstill.runs import budget, resolve
from dreamstill.runs.duration import duration
from dreamstill.runs.settings import build_method


def trial(**seconds):
    return budget.Trial(seconds, first=0.0, memory=0, checkpoint=0, bank=0)


def test_a_phase_of_fixed_length_is_named_with_what_shortens_it():
    method = SoftTarget(n_images=2048, synthesis_batch=256, iterations=500)
    measured = trial(synthesise=0.06, distil=0.05)
    with pytest.raises(InputError) as error:
        budget.steps_for(120.0, measured, method)
    said = str(error.value)
    assert "leaves 2 min 0 s" in said
    assert "100 student steps need 4 min 5 s" in said
    assert "synthesise takes about 4 min 0 s" in said
    assert "n_images or iterations" in said
    assert "synthesis_batch" not in said
    assert "--minutes" in said


def test_the_rest_of_the_budget_is_the_students():
    method = SoftTarget(n_images=2048, synthesis_batch=256, iterations=500)
    assert budget.steps_for(340.0, trial(synthesise=0.06, distil=0.05), method) == 2000


@pytest.mark.parametrize(("steps", "said"), [(599, True), (600, False)])
def test_a_budget_that_is_too_small_to_be_useful_is_said_with_one_that_is_not(steps, said, capsys):
    resolve._say_if_few(steps, 1.0, trial(distil=0.5), DDAD(student_steps=1))
    told = capsys.readouterr().out
    assert bool(told) is said
    if said:  # 2,000 iterations of half a second, the finishing, and a tenth to spare
        assert "1 minutes are about 599 student steps" in told
        assert "--minutes 19 would give 2,000" in told


def test_several_fixed_phases():
    method = HiDFD(gan_iterations=1000, bank=50_000, gan_batch=100)
    with pytest.raises(InputError, match=r"phase gan takes .* and the phase synthesise .* gan_iterations or bank"):
        budget.steps_for(60.0, trial(gan=0.1, synthesise=0.1, distil=0.05), method)


def test_a_run_without_a_fixed_phase_is_too_short_by_its_iterations():
    with pytest.raises(
        InputError, match=r"leaves 1\.0 s for training, and an iteration takes 0.5 s. That is too short"
    ):
        budget.steps_for(1.0, trial(distil=0.5), DDAD())
    # A short phase of weighing before is none of the reason.
    with pytest.raises(InputError, match="an iteration takes"):
        budget.steps_for(1.0, trial(weigh=0.001, distil=0.5), DDAD(alpha="auto", alpha_after=5, student_steps=1))


def test_the_message_reaches_whoever_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "measure", partial(budget.measure, patience=0.2))
    method = {"name": "soft_target", "n_images": 64, "synthesis_batch": 32, "iterations": 1_000_000, "batch_size": 16}
    with pytest.raises(InputError, match=r"the phase synthesise takes about .* n_images or iterations"):
        dreamstill.distill(
            tiny_network((6, 8), 0), tiny_network((3, 4), 1), method=method, minutes=1.0, device="cpu", precision="32",
            compile="off", out=str(tmp_path / "a"), quiet=True,
        )  # fmt: skip
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_all_processes_plan_the_first_ones_run(tmp_path):
    two_ranks(tmp_path, plan.main, str(tmp_path))
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert "precision='32'" in first
    assert first.endswith(" 7)]")


def test_what_a_dry_run_says_is_what_was_measured():
    measured = budget.Trial(
        {"student": 0.5}, first=10.0, memory=3 << 30, checkpoint=20 << 20, bank=100 << 20, watching=60.0
    )
    method = DDAD(student_steps=1)
    measured.seconds = {p.name: 0.5 for p in method.phases(7200)}
    said = budget.describe(measured, method, 7200)
    seconds = measured.total(method, 7200) + 60 + budget.FINISHING_SECONDS
    assert f"about {duration(seconds)}, including 1 min 0 s of evaluation" in said
    assert "memory       about 3 GiB" in said
    assert "disk         about 165 MiB" in said  # three checkpoints, the bank, and 5 MB beside
    assert duration(7384) == "2 h 3 min"


def test_a_trial_leaves_the_networks_as_they_were_and_counts_first_iterations():
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    before = {k: v.clone() for k, v in given.student.state_dict().items()}
    noise = {"name": "noise", "batch_size": 8}
    trial = budget.measure(lambda: build_method(noise), given, Hardware("cpu", "32", False), 0, patience=0.1)
    assert all(torch.equal(v, before[k]) for k, v in given.student.state_dict().items())
    assert trial.first > 0
