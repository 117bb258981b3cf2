"""ZSKT: the adversary's sign, the noise of an iteration, and the attention."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import make_given, tiny_network
from helpers.small import small

from dreamstill.engine import Engine
from dreamstill.methods.zskt import ZSKT


def ready(**settings):
    method = small(ZSKT, **settings)
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision="64", steps=10)
    method.setup(engine)
    engine.begin(0, 0.0)
    return method, engine


def divergence(s, t):
    return (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()


def unit(maps):
    return F.normalize(maps.square().mean(1).flatten(1))


@pytest.mark.parametrize("form", ["squared", "norm"])
def test_each_term_by_hand(form):
    method, engine = ready(beta=7.0, at_form=form)
    z = engine.noise(method.batch_size, method.nz)
    with torch.no_grad():
        x = method.generator(z)
        t, s = method.teacher(x), method.student(x)
        found = method.loss_s(x, t.logits, *t.taps.values())
        up = method.loss_g(z)["divergence"]
    torch.testing.assert_close(found["divergence"], divergence(s.logits, t.logits))
    torch.testing.assert_close(up, -found["divergence"])
    apart = [unit(s.taps[ours]) - unit(t.taps[theirs]) for theirs, ours in method.maps.pairs]
    if form == "squared":
        expected = sum(a.square().mean() for a in apart)
    else:
        expected = sum(a.square().sum(1).sqrt().mean() for a in apart)
    torch.testing.assert_close(found["attention"], 7 * expected)
    assert len(apart) >= 1


def test_the_generator_goes_up_and_the_student_down():
    method, engine = ready(beta=0.0, lr_g=5e-3, lr_s=5e-3, batch_size=32)
    z = engine.noise(32, method.nz)

    def now():
        with torch.no_grad():
            return -method.loss_g(z)["divergence"].item()

    values = [now()]
    for _ in range(20):
        engine.minimise(method.loss_g, method.opt_g, inputs=(z,))
    values.append(now())
    x = engine.make(method.generator, z)
    t = engine.make(method.teacher, x)
    for _ in range(20):
        engine.minimise(method.loss_s, method.opt_s, inputs=(x, t.logits))
    values.append(now())
    assert values[0] < values[1] > values[2]


def test_an_iteration_has_one_draw_of_noise_and_asks_the_teacher_once_for_its_student_steps():
    method, engine = ready(generator_steps=2, student_steps=3)
    seen, minimise = [], engine.minimise

    def watched(fn, *owned, inputs=()):
        seen.append((owned[0].name, inputs))
        return minimise(fn, *owned, inputs=inputs)

    engine.minimise = watched
    method.step(engine)
    assert [name for name, _ in seen] == ["generator"] * 2 + ["student"] * 3
    assert seen[0][1][0] is seen[1][1][0]
    assert all(inputs[0] is seen[2][1][0] for _, inputs in seen[2:])
    torch.testing.assert_close(seen[2][1][1], engine.given.teacher(seen[2][1][0]))
    assert engine.drawn == method.batch_size


def test_phases_and_clip():
    assert ZSKT().phases(95)[0].iterations == 10
    method, _ = ready(clip=3.0)
    assert method.opt_g.clip == method.opt_s.clip == 3.0


def test_without_attention_no_layer_is_looked_at():
    method, engine = ready(beta=0.0)
    assert method.maps.pairs == []
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    assert method.loss_s(x, engine.given.teacher(x)).keys() == {"divergence"}
