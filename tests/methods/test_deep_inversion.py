"""DeepInversion: what is optimised, what each weight does, and the adaptive form."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import make_given, tiny_network
from helpers.small import small

from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods.deep_inversion import DeepInversion
from dreamstill.networks.probes import last_linear


def ready(**settings):
    method = small(DeepInversion, **{"crop": 1, **settings})
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision="64", steps=10)
    method.setup(engine)
    engine.begin(0, 0.0)
    with torch.no_grad():
        method.canvas.start(engine.noise(method.images, 1, 8, 8), "normal", given.teacher)
    method.student.eval()
    return method, engine


def terms(method, engine):
    with torch.no_grad():
        return method.loss_x(engine.labels(method.images))


def test_each_term_by_hand():
    method, engine = ready(w_label=2.0, w_tv=3.0, w_l2=5.0, w_bn=7.0, w_adv=11.0)
    y = engine.labels(method.images)
    with torch.no_grad():
        found = method.loss_x(y)
        x = method.canvas.images
        v = (x - 0.3) / 0.4  # the teacher's mean and standard deviation
        t, s = engine.given.teacher(x), engine.given.student(x)
    tv = (v[:, :, 1:] - v[:, :, :-1]).square().mean() + (v[..., 1:] - v[..., :-1]).square().mean()
    p, q = t.softmax(1), s.softmax(1)
    middle = (p + q) / 2
    js = 0.5 * (p * (p / middle).log() + q * (q / middle).log()).sum(1).mean()
    torch.testing.assert_close(found["label"], 2 * F.cross_entropy(t, y))
    torch.testing.assert_close(found["tv"], 3 * tv)
    torch.testing.assert_close(found["l2"], 5 * v.square().mean())
    torch.testing.assert_close(found["adversarial"], 11 * (1 - js))
    assert found.keys() == {"label", "tv", "l2", "bn", "adversarial"}


def test_the_statistics_are_averaged_or_summed():
    mean, whole = (terms(*ready(bn_over=over))["bn"] for over in ("mean", "sum"))
    torch.testing.assert_close(whole, 2 * mean)  # the tiny teacher has two batch norms


def test_a_student_that_differs_makes_the_adversarial_term_smaller():
    method, engine = ready(w_adv=1.0)
    apart = terms(method, engine)["adversarial"]
    method.student = lambda x: engine.given.teacher(x)
    assert terms(method, engine)["adversarial"].item() == pytest.approx(1.0)
    assert apart < 1.0


@pytest.mark.parametrize(("kept", "off", "falls_to"), [("label", "w_bn", 0.5), ("bn", "w_label", 0.85)])
def test_a_batch_of_images_comes_to_its_classes_or_to_the_statistics(kept, off, falls_to):
    method, engine = ready(inner_steps=40, images=32, n_images=32, jitter=False, lr_x=0.2, **{off: 0.0})
    values, minimise = [], engine.minimise
    with torch.no_grad():  # an untrained teacher hardly tells images apart
        engine.given.teacher.module.get_submodule(last_linear(engine.given.teacher.module)).weight.mul_(30)

    def watched(fn, *owned, inputs=()):
        values.append(fn(*inputs)[kept].item())
        return minimise(fn, *owned, inputs=inputs)

    engine.minimise = watched
    method.synthesis(engine)
    assert values[-1] < falls_to * values[0]
    if kept == "label":  # of the images as they are stored
        stored = method.fixed.bank.draw(torch.arange(32), torch.float64)
        assert (engine.given.teacher(stored.images).argmax(1) == stored.labels).double().mean() > 0.75


@pytest.mark.parametrize(("pixels", "kept"), [("clamp", True), ("free", False)])
def test_pixels_stay_between_black_and_white_or_not(pixels, kept):
    method, engine = ready(pixels=pixels)
    method.synthesis(engine)
    images = method.canvas.images
    assert bool(((images >= 0) & (images <= 1)).all()) is kept


def test_every_batch_is_new_and_the_optimiser_forgets():
    method, engine = ready(inner_steps=1, lr_x=0.0)
    method.synthesis(engine)
    engine.begin(1, 0.0)
    method.synthesis(engine)
    first, second = method.fixed.bank.pixels[:16], method.fixed.bank.pixels[16:]
    assert not torch.equal(first, second)
    assert {int(s["step"]) for s in method.opt_x.opt.state.values()} == {1}


def test_images_first_or_in_turns():
    first, second = DeepInversion(n_images=1000, images=256).phases(100)
    assert (first.name, first.iterations, second.iterations) == ("synthesise", 4, 100)
    first, second = DeepInversion(w_adv=1.0, warmup=7, student_steps=40).phases(100)
    assert (first.name, first.iterations, second.iterations) == ("warm up", 7, 3)


def test_the_learning_rate_is_in_standard_deviations():
    _, engine = ready(lr_x=0.05)
    assert engine.owned["images"].opt.param_groups[0]["lr"] == pytest.approx(0.05 * 0.4)


def test_what_it_needs_and_refuses():
    assert "bn" in DeepInversion().needed
    assert "bn" not in DeepInversion(w_bn=0.0).needed
    with pytest.raises(InputError, match="w_label and w_bn are 0"):
        DeepInversion(w_label=0.0, w_bn=0.0).check("classification")
