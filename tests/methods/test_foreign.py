"""A method of another package, which shares no setting's name with ours, from its settings to the end of its report."""

import csv
import json
import sys

import pytest
import torch
from helpers.networks import tiny_network
from helpers.runs import FIXED
from safetensors.torch import load_file

import dreamstill
from dreamstill import cli
from dreamstill.errors import InputError

METHOD = '''
"""Blobs: a method of somebody else."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam

from dreamstill.engine.schedules import cosine
from dreamstill.losses.distillation import l1
from dreamstill.methods import Method, Phase
from dreamstill.networks.generators import Generator
from dreamstill.ranges import Batch, Count, Positive, Share, Small


@dataclass
class Blobs(Method):
    """A generator that imitates nothing, and a student that learns from it, in two phases."""

    paper: ClassVar[str] = "Somebody, 2031"
    needs: ClassVar[frozenset[str]] = frozenset({"sides", "input_gradient"})

    pictures: Annotated[Count, Batch(), Small(4)] = 32
    """Pictures that are painted at a time."""
    seeds: Annotated[Count, Small(2)] = 8
    """What a picture is painted from."""
    eagerness: Positive = 0.01
    """How fast everybody learns (ours)."""
    alone: Share = 0.25
    """The painter's share of all steps."""
    mood: Literal["calm", "wild"] = "calm"
    """Changes nothing."""
    colours: list[int] = field(default_factory=lambda: [1, 2])
    """Nor does this."""

    @property
    def images_a_step(self) -> int:
        return self.pictures

    def setup(self, engine) -> None:
        self.teacher = engine.frozen(engine.given.teacher)
        painter = Generator(engine.given.teacher, self.seeds, 4)
        self.painter, self.opt_p = engine.own("painter", painter, partial(Adam, lr=self.eagerness))
        self.pupil = engine.given.student
        self.student, self.opt_s = engine.own("student", self.pupil, partial(SGD, lr=self.eagerness))

    def phases(self, steps) -> list[Phase]:
        alone = max(round(steps * self.alone), 1)
        return [Phase("paint", alone, self.paint), Phase("learn", steps, self.learn, {"student": cosine})]

    def paint(self, engine) -> None:
        engine.minimise(self.blobs, self.opt_p, inputs=(engine.noise(self.pictures, self.seeds),))

    def learn(self, engine) -> None:
        engine.minimise(self.imitation, self.opt_s, inputs=(self.synthesise(engine, self.pictures),))

    def blobs(self, z: Tensor) -> dict[str, Tensor]:
        return {"spread": -self.painter(z).std()}

    def imitation(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(x).logits
        return {"gap": l1(self.student(x), t)}

    def deliver(self):
        return self.pupil

    def synthesise(self, engine, n: int) -> Tensor:
        return engine.make(self.painter, engine.noise(n, self.seeds))

    def check(self, task: str) -> None:
        from dreamstill.errors import InputError

        if self.mood == "wild" and self.alone == 0:
            raise InputError("mood is wild and nobody paints alone: give alone more than 0")


@dataclass
class Nameless(Blobs):
    def setup(self, engine) -> None:
        super().setup(engine)
        engine.owned["learner"] = engine.owned.pop("student")


@dataclass
class Undelivered(Blobs):
    def deliver(self):
        return self.pupil.module


@dataclass
class Idle(Blobs):
    def phases(self, steps):
        return []


@dataclass
class Empty(Blobs):
    def phases(self, steps):
        return [Phase("paint", 0, self.paint), *super().phases(steps)[1:]]


@dataclass
class Misnamed(Blobs):
    def phases(self, steps):
        return [Phase("learn", steps, self.learn, {"pupil": cosine})]


@dataclass
class Unfinished(Method):
    def setup(self, engine) -> None:
        pass

    def phases(self, steps):
        return []


class Bare(Method):
    pass


class NoMethod:
    pass
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Importable for one test."""
    folder = tmp_path / "somewhere" / "their_methods"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "blobs.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield "their_methods.blobs"
    for name in ("their_methods", "their_methods.blobs"):
        sys.modules.pop(name, None)


def distil(method, out, **more):
    teacher, student = tiny_network((6, 8), 0, num_classes=10), tiny_network((3, 4), 1, num_classes=10)
    settings = {"steps": 8, "data": "digits", "evaluations": 2, "onnx": False, "out": str(out), **FIXED, **more}
    return dreamstill.distill(teacher, student, method=method, **settings)


@pytest.mark.slow
def test_it_works_to_the_end_of_its_report(package, tmp_path):
    name, out = f"{package}:Blobs", tmp_path / "run"
    distil({"name": name, "pictures": 16, "eagerness": "2e-2"}, out)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["method"] == name
    assert summary["paper"] == "Somebody, 2031"
    assert 0 <= summary["student"]["accuracy"] <= 1
    assert summary["steps"] == 8
    assert summary["images_synthesised"] == (2 + 8) * 16
    assert sum(summary["class_histogram"]) > 0
    page = (out / "report.html").read_text()
    assert all(said in page for said in (name, "Somebody, 2031", "spread", "gap", "eagerness"))
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    rates = [float(row["lr/student"]) for row in rows if row.get("lr/student")]
    assert rates[0] == pytest.approx(0.02)
    assert rates[-1] < 0.002  # along the schedule of its phase
    # And again from its folder, as any other.
    before = load_file(out / "student.safetensors")
    (out / "report.html").unlink()
    distil({"name": name, "pictures": 16, "eagerness": 0.02}, out, resume=True)
    again = load_file(out / "student.safetensors")
    assert all(torch.equal(again[k], v) for k, v in before.items())
    assert again.keys() == before.keys()
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_its_cost_can_be_asked_for(package, tmp_path, capsys):
    assert distil(f"{package}:Blobs", tmp_path / "run", steps=500, dry_run=True) is None
    assert "learn: 500 iterations" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_its_settings_are_shown(package, capsys):
    assert cli.main(["methods", f"{package}:Blobs", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["settings"]["pictures"] == 32
    assert row["explained"][2] == {
        "name": "eagerness", "default": "0.01", "range": "above 0", "meaning": "How fast everybody learns (ours)."
    }  # fmt: skip
    assert [s["default"] for s in row["explained"]][-1] == "[1, 2]"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nameless", "owns painter, learner and no network called 'student'"),
        ("Undelivered", "returns a ConvNet: it must be a Network"),
        ("Idle", "gives none: each needs an iteration"),
        ("Empty", "gives paint of 0, learn of 8: each needs an iteration"),
        ("Misnamed", "has a schedule for pupil, and owned are painter, student"),
        ("Unfinished", "has no deliver, synthesise"),
        ("Bare", "expected a dataclass that subclasses dreamstill.methods.Method"),
        ("NoMethod", "expected a dataclass that subclasses dreamstill.methods.Method"),
        ("Nobody", "could not be imported"),
    ],
)
def test_what_breaks_a_rule_is_refused_before_the_folder_is_made(package, name, said, tmp_path):
    with pytest.raises(InputError, match=said):
        distil(f"{package}:{name}", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pictures": 0}, "pictures is 0: it must be at least 1"),
        ({"alone": 1.5}, "alone is 1.5: it must be at least 0 and at most 1"),
        ({"mood": "sad"}, "mood"),
        ({"batch_size": 4}, "has no batch_size: it has pictures, seeds"),
        ({"mood": "wild", "alone": 0.0}, "nobody paints alone"),
    ],
)
def test_its_settings_are_checked_as_ours_are(package, settings, said, tmp_path):
    with pytest.raises(InputError, match=said):
        distil({"name": f"{package}:Blobs", **settings}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
