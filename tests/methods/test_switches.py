"""Settings that name a form, a weight or a schedule: what is set is what is computed."""

import copy
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from helpers.prepared import RAMP, fed_to, mirrored, prepared

from dreamstill import methods
from dreamstill.engine import Engine
from dreamstill.engine.schedules import cosine
from dreamstill.losses.attention import attention_distance
from dreamstill.losses.distillation import l1
from dreamstill.losses.gan import frequency_smoothing, frequency_weights
from dreamstill.methods.cgdd import CGDD
from dreamstill.methods.controls.collected_only import CollectedOnly
from dreamstill.methods.controls.noise import Noise
from dreamstill.methods.controls.random_generator import RandomGenerator
from dreamstill.methods.controls.real_data import RealData
from dreamstill.methods.controls.transfer import Transfer
from dreamstill.methods.cpsc import CPSC
from dreamstill.methods.ddad import DDAD
from dreamstill.methods.hidfd import HiDFD
from dreamstill.methods.parts.feature_pairs import maps
from dreamstill.methods.parts.soft_targets import shares
from dreamstill.methods.soft_target import SoftTarget

pytestmark = pytest.mark.filterwarnings("ignore:the teacher takes none", "ignore:the soft targets")


@pytest.mark.parametrize("cls", [CGDD, CPSC, DDAD, HiDFD, CollectedOnly, Noise, RandomGenerator, RealData, Transfer])
def test_the_students_sgd_has_its_settings(cls):
    _, engine = prepared(cls, lr_s=0.3, momentum=0.8, weight_decay=0.01)
    (group,) = engine.owned["student"].opt.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.8, 0.01)


@pytest.mark.parametrize("cls", [CGDD, CPSC, DDAD])
def test_the_generators_clip_reaches_the_engine(cls):
    assert prepared(cls, clip=3.0)[0].opt_g.clip == 3.0


@pytest.mark.parametrize("cls", [CGDD, CPSC])
def test_a_count_of_preset_labels_leaves_the_generator_as_it_was(cls):
    method, engine = prepared(cls)
    before = copy.deepcopy(engine.modules["generator"].state_dict())
    method.preset(engine)
    assert all(torch.equal(v, before[k]) for k, v in engine.modules["generator"].state_dict().items())


def test_ddad_hands_on_whether_pooled_statistics_count(monkeypatch):
    asked, frozen = [], Engine.frozen
    monkeypatch.setattr(Engine, "frozen", lambda self, n, **k: (asked.append(k), frozen(self, n, **k))[1])
    for pooled in (True, False):
        prepared(DDAD, bn_pooled=pooled)
    assert [k["bn_pooled"] for k in asked] == [True, False]


# ---------------------------------------------------------------- cgdd


def test_cgdds_forms_and_weights():
    method, engine = prepared(CGDD, kd="l1", at_form="squared", w_at=3.0, w_act=2.0)
    method.student.eval()
    with torch.no_grad():
        terms_g, (x, _) = method.loss_g(*(drawn := method.images.draw(engine)))
        t, s, terms = method.teacher(x), method.student(x), method.loss_s(x, drawn[1])[0]
    attention = attention_distance(*maps(method.maps.pairs, s, t), "squared")
    assert terms["kd"].item() == pytest.approx(l1(s.logits, t.logits).item(), rel=1e-5)
    assert terms["attention"].item() == pytest.approx(3 * attention.item(), rel=1e-5)
    assert terms_g["activation"].item() == pytest.approx(-2 * t.taps["linear:input"].abs().mean().item(), rel=1e-5)


def test_cgdds_rate_falls_at_a_fifth_and_two_fifths():
    schedule = prepared(CGDD)[0].opt_s.schedule
    assert [schedule(p) for p in (0, 0.19, 0.21, 0.39, 0.41)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("flip", [True, False])
def test_cgdd_mirrors_only_on_request(flip):
    method, engine = prepared(CGDD, crop=1, w_at=0.0, flip=flip)
    fed = fed_to(method)
    method.images.make = lambda engine: (RAMP, torch.zeros(16, dtype=torch.long))
    method.step(engine)
    assert bool(mirrored(fed[0][0]).any()) == flip


# ---------------------------------------------------------------- soft targets


@pytest.mark.parametrize("flip", [True, False])
def test_soft_targets_mirror_only_on_request(flip):
    method, engine = prepared(SoftTarget, crop=1, flip=flip, noise=0.0, jitter=True)
    method.stored.add(RAMP.repeat(2, 1, 1, 1))
    fed = fed_to(method)
    method.step(engine)
    assert bool(mirrored(fed[0][0]).any()) == flip
    moved, loss_x = [], method.loss_x
    method.loss_x = lambda y, *by: (moved.append(by), loss_x(y, *by))[1]
    method.synthesis_step(engine)
    ((shift, mirror),) = moved
    assert bool(mirror.any()) == flip
    assert bool(shift.any())


def test_the_soft_targets_student_learns_along_a_cosine():
    assert prepared(SoftTarget)[0].opt_s.schedule is cosine


@pytest.mark.parametrize("centre", ["on", "off"])
def test_centred_targets_do_not_favour_a_class_whose_mean_is_high(centre):
    method, engine = prepared(SoftTarget, space="softmax", centre=centre, tau=1.0)
    method.targets.mean = torch.tensor([9.0, 0, 0, 0])
    assert bool(shares(method.targets.draw(engine, 500))[0] > 0.9) == (centre == "off")


# ---------------------------------------------------------------- hidfd


@pytest.mark.parametrize(("form", "beta"), [("inverse", None), ("effective", 0.99)])
def test_hidfds_classes_are_weighted_by_the_form_asked_for(form, beta):
    method, _ = prepared(HiDFD, frequency=form, frequency_decay=0.0)
    method.frequencies.seen.zero_()
    method.frequencies.count(torch.eye(4)[[0] * 300 + [1] * 100 + [2] * 20 + [3] * 5], now=True)
    assert torch.allclose(method.frequencies.weights, frequency_weights(torch.tensor([300.0, 100, 20, 5]), beta))


def test_hidfds_average_is_over_a_share_of_the_gans_phase():
    assert prepared(HiDFD, ema=0.5, gan_iterations=40)[0].average.towards == pytest.approx(1 / 20)


def test_hidfds_smoothing_is_weighted():
    method, engine = prepared(HiDFD, w_smooth=0.3)
    with torch.no_grad():
        terms, logits = method.loss_g(engine.noise(16, 8), engine.labels(16), method.frequencies.weights)
    assert terms["smooth"].item() == pytest.approx(0.3 * frequency_smoothing(logits, method.frequencies.weights).item())


def test_the_pages_table_of_the_batch_norm_term_is_of_the_code():
    text = (Path(__file__).parents[2] / "docs/methods.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\S+) \| ([\w ,]+) \| (sum|mean) \|", text, re.M)
    compare = {name for name in methods.names() if "bn" in methods.get(name).needs}
    assert {name for name, *_ in rows} == compare | {"soft_target"}  # the last one by request
    for name, setting, default, distance, over in rows:
        cls = methods.get(name)
        known = {f.name: f.default for f in fields(cls)}
        assert known[setting] == float(default), name
        assert known.get("bn_layers", "mean") == over, name
        assert (known.get("bn_form", "norm") == "squared") == ("squares" in distance), name
