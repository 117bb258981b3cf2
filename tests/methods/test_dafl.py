"""DAFL: its three terms, their signs, and what the student learns from."""

import math

import pytest
import torch
from helpers.networks import make_given, tiny_network
from helpers.small import small

from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods.dafl import DAFL


def ready(**settings):
    method = small(DAFL, **settings)
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision="64", steps=10)
    method.setup(engine)
    engine.begin(0, 0.0)
    return method, engine


def test_each_term_by_hand():
    method, engine = ready(w_onehot=2.0, alpha=3.0, beta=5.0)
    with torch.no_grad():
        terms, (x, t) = method.loss_g(engine.noise(method.batch_size, method.nz))
        features = method.teacher(x).taps[method.features[0]]
    p = t.softmax(1)
    mean = p.mean(0)
    torch.testing.assert_close(terms["onehot"], -2 * p.amax(1).log().mean())
    torch.testing.assert_close(terms["activation"], -3 * features.abs().mean())
    torch.testing.assert_close(terms["balance"], 5 * (mean * mean.log()).sum())
    assert terms["onehot"] > 0 > terms["activation"]
    assert -5 * math.log(4) <= terms["balance"] < 0


@pytest.mark.parametrize("kept", ["w_onehot", "alpha", "beta"])
def test_each_term_drives_the_generator_where_the_paper_wants_it(kept):
    settings = {**dict.fromkeys(("w_onehot", "alpha", "beta"), 0.0), kept: 1.0}
    method, engine = ready(**settings, lr_g=5e-3, batch_size=32)
    z = torch.randn(32, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    measures = {
        "w_onehot": lambda t, _: t.softmax(1).amax(1).log().mean(),
        "beta": lambda t, _: -(t.softmax(1).mean(0) * t.softmax(1).mean(0).log()).sum(),
        "alpha": lambda _, x: method.teacher(x).taps[method.features[0]].abs().mean(),
    }

    def now():
        with torch.no_grad():
            _, (x, t) = method.loss_g(z)
            return measures[kept](t, x).item()

    before = now()
    for _ in range(30):
        engine.minimise(method.loss_g, method.opt_g, inputs=(z,))
    assert now() > before


def test_the_student_learns_from_the_generators_own_batch():
    method, engine = ready()
    seen, minimise = [], engine.minimise

    def watched(fn, *owned, inputs=()):
        extra = minimise(fn, *owned, inputs=inputs)
        seen.append((owned[0].name, inputs, extra))
        return extra

    engine.minimise = watched
    method.step(engine)
    assert [name for name, _, _ in seen] == ["generator", "student"]
    torch.testing.assert_close(seen[1][1], seen[0][2], rtol=0, atol=0)  # its images, with the teacher's logits
    torch.testing.assert_close(engine.given.teacher(seen[1][1][0]), seen[1][1][1])


def test_the_schedules_milestones():
    _, engine = ready(schedule="step")
    assert [engine.owned["student"].schedule(p) for p in (0.39, 0.41, 0.81)] == pytest.approx([1, 0.1, 0.01])


def test_what_it_needs_and_refuses():
    assert "linear_head" in DAFL().needed
    assert "linear_head" not in DAFL(alpha=0.0).needed
    with pytest.raises(InputError, match="w_onehot, alpha, beta are 0"):
        DAFL(w_onehot=0.0, alpha=0.0, beta=0.0).check("classification")
