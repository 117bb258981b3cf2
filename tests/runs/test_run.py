"""What a run says of itself: which network is scored, which inputs are told apart, which paths are written."""

from types import SimpleNamespace

import pytest
import torch
from helpers.networks import make_given, tiny_network
from helpers.prepared import images

from dreamstill.data.load import load_images
from dreamstill.engine import Given
from dreamstill.runs.inputs import Inputs
from dreamstill.runs.plan import with_absolute_paths
from dreamstill.runs.run import _curve
from dreamstill.runs.settings import DistillSettings
from dreamstill.runs.summary import _scores
from dreamstill.tasks import metrics
from dreamstill.tasks.classification import Classification


@pytest.fixture
def two():
    """A student as the last step left it, its average, and digits to tell them apart."""
    live, averaged = (tiny_network((3, 4), seed, num_classes=10) for seed in (1, 2))
    return live, averaged, load_images("digits", "test")


def test_what_is_delivered_is_scored_and_the_last_step_beside_it(two):
    live, averaged, test = two
    given = make_given(tiny_network((6, 8), 0, num_classes=10), live)
    plan = SimpleNamespace(inputs=Inputs(given, test), compare=True, method=SimpleNamespace(deliver=lambda: live))
    done = SimpleNamespace(plan=plan, engine=SimpleNamespace(task=Classification()), network=averaged)
    found = _scores(done)["student_scores"]
    assert found["accuracy"] == metrics.evaluate(averaged, test)["accuracy"]
    assert found["accuracy_last"] == metrics.evaluate(live, test)["accuracy"] != found["accuracy"]


def test_the_curve_is_the_averages(two):
    live, averaged, test = two
    method = SimpleNamespace(deliver=lambda: live)
    plan = SimpleNamespace(inputs=Inputs(make_given(live, live), test), compare=False, method=method)
    found = _curve(plan, Classification())(SimpleNamespace(network=averaged))
    assert found == {"eval/accuracy": metrics.evaluate(averaged, test)["accuracy"]}


def test_other_labels_of_the_same_images_are_other_training_data():
    def digest(labels):
        return Inputs(Given(None, None, images(4), torch.tensor(labels), task=None)).real_sha256

    assert digest([0, 1, 2, 3]) == digest([0, 1, 2, 3]) != digest([0, 1, 2, 2])


def test_paths_are_written_so_that_they_hold_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = {k: "x" for k in ("teacher_checkpoint", "student_checkpoint", "data_root", "transfer")}
    found = with_absolute_paths(DistillSettings(**named, data="digits", real="nowhere"))
    assert {k: getattr(found, k) for k in named} == {k: str(tmp_path / "x") for k in named}
    assert (found.data, found.real, found.collected) == ("digits", "nowhere", None)
