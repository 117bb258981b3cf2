"""Fast: what one batch of images costs, what is kept of it, and how the first weights move."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import make_given, tiny_network
from helpers.small import small

from dreamstill.data.augment import crop_flip
from dreamstill.engine import Engine
from dreamstill.methods.fast import Fast
from dreamstill.methods.parts.fixed_views import FixedViews
from dreamstill.methods.parts.moment_average import MomentAverage
from dreamstill.networks.probes import Moments


def ready(**settings):
    method = small(Fast, **{"crop": 1, **settings})
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision="64", steps=10)
    method.setup(engine)
    engine.begin(0, 0.0)
    return method, engine


def weights(owned):
    return torch.cat([p.detach().flatten() for p in owned.params]).clone()


def test_reptile_moves_the_first_weights_toward_the_adapted_ones():
    method, engine = ready()
    with torch.no_grad():
        for p in method.opt_g.params:
            p.add_(0.3)
    target, before = weights(method.opt_g), weights(method.opt_first)
    loss = method.loss_first()["distance"]
    assert loss.item() == pytest.approx((before - target).square().sum().item() / 2, rel=1e-12)
    engine._activate((method.opt_first,))
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in method.opt_first.params])
    torch.testing.assert_close(gradient, before - target)  # what Reptile calls its gradient


def test_each_batch_begins_at_the_first_weights():
    method, engine = ready(inner_steps=1, meta="off", lr_g=0.0)
    method.synthesis(engine)
    torch.testing.assert_close(weights(method.opt_g), weights(method.opt_first), rtol=0, atol=0)


@pytest.mark.parametrize(("meta", "moves"), [("reptile", True), ("off", False)])
def test_the_first_weights_are_learnt_or_not(meta, moves):
    method, engine = ready(meta=meta)
    before = weights(method.opt_first)
    method.synthesis(engine)
    assert torch.equal(before, weights(method.opt_first)) is not moves


def test_noise_and_generator_are_adapted_together():
    method, engine = ready(inner_steps=3, w_adv=1.0)
    z = engine.draws
    method.synthesis(engine)
    assert method.opt_g.steps == method.opt_z.steps == 3
    engine.begin(0, 0.0)
    drawn = z.noise(method.images, method.nz)
    assert not torch.equal(method.z.detach(), drawn)


def test_one_batch_makes_the_loss_of_its_images_smaller():
    method, engine = ready(inner_steps=60, w_adv=0.0, bn_memory=0.0, images=32, width=8, lr_g=1e-2)
    losses = []
    minimise = engine.minimise

    def kept(fn, *owned, inputs=()):
        if fn == method.loss_g:
            losses.append(sum(t.item() for t in fn(*inputs)[0].values()))
        return minimise(fn, *owned, inputs=inputs)

    engine.minimise = kept
    method.synthesis(engine)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_stored_logits_are_the_teachers_of_each_view():
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision="64", steps=10)
    engine.begin(0, 0.0)
    teacher = engine.frozen(given.teacher)
    kept = FixedViews(engine, 16, views=3, crop=2, flip=True, wide=False)
    images = torch.rand(16, 1, 8, 8, dtype=torch.float64)
    kept.add(engine, images, torch.zeros(16, dtype=torch.int64), teacher)
    assert kept.bank.logits.shape == (16, 12)
    for v in range(3):
        seen = crop_flip(images, kept.shift[v].expand(16, 2), kept.coins[v].expand(16), 2)
        mine = kept.bank.logits.view(16, 3, 4)[:, v].double()
        torch.testing.assert_close(mine, teacher(seen).logits, rtol=2e-3, atol=2e-3)  # kept as float16
    assert kept.shift[0].tolist() == [2, 2]  # the first view is the whole image
    x, t = kept.draw(engine, 64)
    torch.testing.assert_close(t.double(), teacher(x).logits, rtol=2e-2, atol=2e-2)  # of images kept as uint8


def test_without_flip_no_view_is_mirrored():
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", steps=10)
    assert not FixedViews(engine, 4, views=50, crop=1, flip=False, wide=False).coins.any()


def test_statistics_are_mixed_with_those_of_earlier_batches():
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision="64", steps=10)
    teacher = engine.frozen(given.teacher, bn=True)
    average = MomentAverage(engine, given.teacher, 0.75)
    observed = teacher(torch.rand(8, 1, 8, 8, dtype=torch.float64), stats=True).moments
    mixed = average.mix(observed)
    for m, kept in zip(mixed, observed, strict=True):  # it begins at the running statistics themselves
        torch.testing.assert_close(m.mean, 0.25 * kept.mean + 0.75 * kept.running_mean)
        torch.testing.assert_close(m.var, 0.25 * kept.var + 0.75 * kept.running_var)
    average.update([(m.mean, m.var) for m in observed])
    again = average.mix(observed)[0]
    first = observed[0]
    expected = 0.25 * first.mean + 0.75 * (0.25 * first.mean + 0.75 * first.running_mean)
    torch.testing.assert_close(again.mean, expected)
    assert isinstance(again, Moments)


def test_the_adversarial_term_counts_only_where_the_student_is_right():
    method, engine = ready(w_adv=2.0, w_label=0.0, w_bn=0.0, flip=False, crop=0)
    y = engine.labels(method.images)
    shift, coins = torch.zeros(method.images, 2, dtype=torch.int64), torch.zeros(method.images, dtype=torch.bool)
    method.student.eval()
    with torch.no_grad():
        found = method.loss_g(y, shift, coins)[0]["adversarial"]
        x = method.generator(method.z)
        s, t = method.student(x), method.teacher(x).logits
        kl = F.kl_div(F.log_softmax(s, 1), F.log_softmax(t, 1), log_target=True, reduction="none").sum(1)
        expected = -2.0 * torch.where(s.argmax(1) == t.argmax(1), kl, torch.zeros_like(kl)).mean()
    torch.testing.assert_close(found, expected)


def test_a_teacher_without_batch_norm_needs_no_statistics():
    assert "bn" in Fast().needed
    assert "bn" not in Fast(w_bn=0.0).needed
    method, engine = ready(w_bn=0.0)
    method.synthesis(engine)
    assert not any(name.startswith("mean") for name in engine.buffers)


def test_some_batches_are_made_before_the_student_begins():
    first, second = Fast(warmup=7, student_steps=40).phases(100)
    assert (first.iterations, second.iterations) == (7, 3)


def test_the_pages_trials_are_those_recorded():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "methods" / "fast.md").read_text()
    shown = re.findall(r"^\| .* \| ([\d.]+) \| ([\d.]+) \|$", page, re.M)
    records = [json.loads(p.read_text()) for p in (root / "benchmarks/records/auto-trials").glob("fashion-*.json")]
    known = {(f"{r['accuracy']:.1%}"[:-1], f"{r['total_flops'] / 1e12:.2f}") for r in records}
    assert len(shown) == 14
    assert set(shown) <= known
