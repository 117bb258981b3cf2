"""The certificate: its figures for known answers, and what it says of tiny runs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.networks import make_given, tiny_network
from helpers.runs import distil

from dreamstill.engine import Engine
from dreamstill.runs import certificate
from dreamstill.runs.certificate import Source, certify, summarise
from dreamstill.runs.verdict import judge

pytestmark = pytest.mark.whole_end


def logits(classes, k=4, size=5.0):
    return size * torch.nn.functional.one_hot(torch.tensor(classes), k).float()


def source(teacher, student, distance=0.0, name="mixed"):
    return Source(name, logits(teacher), logits(student), distance)


def test_figures_of_one_source():
    found = summarise([source([0] * 10 + [1] * 10 + [2] * 10, [0] * 10 + [1] * 5 + [0] * 5 + [0] * 10)])
    assert found["agreement"] == pytest.approx((1 + 0.5 + 0) / 3)  # by classes, not by images
    assert found["worst_class"] == {"class": 2, "agreement": 0.0}
    assert found["coverage"]["seen"] == 3
    assert found["coverage"]["missing"] == [2]
    assert found["coverage"]["largest"] == {
        "class": 0, "share": pytest.approx(25 / 30), "teacher": pytest.approx(1 / 3)
    }  # fmt: skip
    sure = float(logits([0]).softmax(1).max())
    assert found["ece"] == pytest.approx(sure - 0.5, abs=1e-4)
    assert found["sources"][0]["agreement"] == pytest.approx(0.5)
    assert json.loads(json.dumps(found)) == found


def test_a_source_counts_by_its_likeness_to_the_data():
    near, far = source([0, 1, 2, 3] * 10, [0, 1, 2, 3] * 10), source([0, 1, 2, 3] * 10, [0] * 40, distance=1.0)
    assert near.weight == pytest.approx(near.confidence)
    assert far.weight == pytest.approx(near.weight * 2.718281828**-4)
    assert summarise([near, far])["agreement"] > 0.98
    one_class = source([1] * 40, [0] * 40)
    assert one_class.weight == 0.0
    assert summarise([near, one_class])["agreement"] == pytest.approx(1.0)
    assert summarise([one_class])["agreement"] == 0.0  # alike where none has any weight
    no_batch_norm = source([0, 1, 2, 3] * 10, [0] * 40, distance=None)
    assert no_batch_norm.weight == near.weight


def test_no_worst_class_of_too_few_images():
    assert summarise([source([0, 1, 2, 3], [0, 1, 2, 3])])["worst_class"] is None


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(certificate, "IMAGES", 64)


def finished(teacher, student, flops=1e9):
    given = make_given(teacher, student)
    engine = Engine(given, device="cpu", seed=3, steps=10)
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plan = SimpleNamespace(inputs=SimpleNamespace(given=given, collected=None))
    return SimpleNamespace(
        plan=plan, engine=engine, network=student, images=images, outcome=SimpleNamespace(flops=flops)
    )


def decided(seed=0):
    """A teacher that is sure of its classes and sees several: an untrained one's logits hardly differ."""
    network = tiny_network((6, 8), seed)
    images = torch.rand(256, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        head = network.module.get_submodule(network.module.classifier)
        out = network(images)
        head.weight.mul_(20 / out.std(0)[:, None])
        head.bias.copy_((head.bias - out.mean(0)) * 20 / out.std(0))
    return network


def test_a_perfect_copy_and_a_collapsed_student(few):
    teacher = decided()
    same = certify(finished(teacher, decided()))["certificate"]
    assert same["agreement"] == 1.0
    assert same["coverage"]["seen"] >= 3
    collapsed = decided()
    with torch.no_grad():
        collapsed.module.get_submodule(collapsed.module.classifier).bias += torch.tensor([0.0, 1e4, 0.0, 0.0])
    found = certify(finished(teacher, collapsed))["certificate"]
    assert found["coverage"]["largest"]["class"] == 1
    assert found["coverage"]["largest"]["share"] == pytest.approx(1.0)
    assert found["agreement"] == pytest.approx(1 / found["coverage"]["seen"])
    summary = {
        "steps": 2000, "seconds": {"training": 9.0}, "class_histogram": [9] * 4, "teacher": {}, "student": {},
        "certificate": found,
    }  # fmt: skip
    assert judge(summary, {}, Path("runs/x"))["word"] == "not a copy of its teacher"


def test_it_is_the_same_each_time_and_touches_nothing(few):
    done = finished(decided(), tiny_network((3, 4), 1))
    before = {k: v.clone() for k, v in done.plan.inputs.given.teacher.state_dict().items()}
    drawn, state = done.engine.drawn, torch.get_rng_state()
    first, second = certify(done), certify(done)
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    assert done.engine.drawn == drawn
    after = done.plan.inputs.given.teacher.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert first["certificate"]["left_out"] == []
    assert {s["name"] for s in first["certificate"]["sources"]} == {
        "white noise", "blotches", "untrained generators", "optimised pixels", "mixed", "warped",
    }  # fmt: skip


def test_large_networks_get_fewer_images(few, monkeypatch):
    monkeypatch.setattr(certificate, "LEAST", 1e6)
    found = certify(finished(decided(), tiny_network((3, 4), 1), flops=0.0))["certificate"]
    assert found["left_out"] == ["optimised pixels"]
    assert {s["images"] for s in found["sources"]} <= {certificate.FEWEST, 60}


@pytest.mark.slow
def test_ten_steps_are_no_copy_and_the_run_says_so(few, tmp_path, capsys):
    distil(tmp_path / "run", steps=10, quiet=False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["verdict"]["word"] in ("doubtful", "not a copy of its teacher")
    assert any("10 student steps are too few" in reason for reason in summary["verdict"]["reasons"])
    assert summary["certificate"]["sources"]
    printed = capsys.readouterr().out
    assert f"\n{summary['verdict']['word']}: {summary['verdict']['reasons'][0]}\n" in printed
    assert f"next: {summary['verdict']['next']}" in printed
    assert "synthetic" not in printed
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'class="verdict"' in page
    assert "optimised pixels" in page
