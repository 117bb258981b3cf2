"""DDAD against a plain loop written from the papers, and the parts of its two losses."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import dense_network, make_given, tiny_network
from torch.optim import SGD, Adam

from dreamstill.data.load import load_images
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.losses.statistics import bn_statistics
from dreamstill.methods.ddad import DDAD
from dreamstill.methods.parts.distance import distance
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.networks.probes import Probe
from dreamstill.runs.settings import build_method

SMALL = {"batch_size": 16, "nz": 8, "width": 4, "student_steps": 2}


def made(seed=0, given=None, precision="32", **settings):
    given = given or make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    engine = Engine(given, device="cpu", precision=precision, seed=seed, steps=100)
    method = DDAD(**{**SMALL, **settings})
    method.check(engine.task.name)
    method.setup(engine)
    return method, engine


def iterate(method, engine, iterations):
    for i in range(iterations):
        engine.begin(i, i / iterations)
        method.step(engine)


def parts(method):
    """Generator, student and teacher themselves, without the engine's wrappers."""
    return method.generator.module, method.network, method.teacher.module.network


# ---------------------------------------------------------------- the algorithm


def dfad(generator, student, teacher, draw, iterations, lr_s=0.1, lr_g=1e-3):
    """Data-free adversarial distillation, written down directly: k student steps, then one of the generator."""
    opt_s = SGD(student.parameters(), lr=lr_s, momentum=0.9, weight_decay=5e-4)
    opt_g = Adam(generator.parameters(), lr=lr_g)
    for i in range(iterations):
        decay = 1.0 if i / iterations < 0.2 else 0.1 if i / iterations < 0.4 else 0.01
        opt_s.param_groups[0]["lr"], opt_g.param_groups[0]["lr"] = lr_s * decay, lr_g * decay
        noise = draw(i)
        for z in noise[:-1]:
            images = generator(z).detach()
            opt_s.zero_grad()
            (student(images) - teacher(images).detach()).abs().mean().backward()
            opt_s.step()
        images = generator(noise[-1])
        opt_g.zero_grad()
        (-(student(images) - teacher(images)).abs().mean()).backward()
        opt_g.step()


def test_without_statistics_it_is_dfad():
    method, engine = made(alpha=0.0, precision="64")
    reference = [copy.deepcopy(m) for m in parts(method)]
    start = copy.deepcopy(reference)
    _, other = made(alpha=0.0, precision="64")

    def draw(i):
        other.begin(i, 0.0)
        return [other.noise(16, 8) for _ in range(3)]

    dfad(*reference, draw, iterations=3)
    iterate(method, engine, 3)
    for ours, theirs, before in zip(parts(method)[:2], reference[:2], start[:2], strict=True):
        theirs, before = theirs.state_dict(), before.state_dict()
        for name, value in ours.state_dict().items():
            # Adam divides a gradient that is zero but for rounding, 1e-15 in float64, by no less than its epsilon of
            # 1e-8: a step of 1e-10 at a rate of 1e-3. Three such steps, which six steps of SGD magnify.
            assert torch.allclose(value.double(), theirs[name].double(), rtol=0, atol=1e-8), name
        assert any(not torch.allclose(theirs[k].double(), v.double(), rtol=0, atol=1e-3) for k, v in before.items())


def test_the_first_discriminator_changes_the_generator():
    with_statistics, without = made(alpha=1.0), made(alpha=0.0)
    for method, engine in (with_statistics, without):
        iterate(method, engine, 1)
    a, b = (parts(m)[0].state_dict() for m, _ in (with_statistics, without))
    assert any(not torch.equal(a[k], b[k]) for k in a)
    # The student's steps come first in an iteration, so they are the same in both.
    a, b = (dict(parts(m)[1].named_parameters()) for m, _ in (with_statistics, without))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_iteration_counts_student_steps():
    method, engine = made(student_steps=5)
    assert [p.iterations for p in method.phases(101)] == [21]
    iterate(method, engine, 2)
    assert (method.opt_s.steps, method.opt_g.steps) == (10, 2)
    method, engine = made(generator_steps=3)
    iterate(method, engine, 2)
    assert (method.opt_s.steps, method.opt_g.steps) == (4, 6)


# ---------------------------------------------------------------- who learns from what


def test_each_loss_reaches_only_its_own_network():
    method, engine = made(w_onehot=1.0, w_balance=1.0)
    generator, student, teacher = parts(method)
    seen = []

    def watch(owned, own, others):
        step = owned.opt.step

        def checked():
            assert all(p.grad is not None and p.grad.isfinite().all() for p in own.parameters())
            assert any(p.grad.abs().sum() > 0 for p in own.parameters())
            assert all(p.grad is None for o in others for p in o.parameters())
            seen.append(owned.name)
            step()

        owned.opt.step = checked

    watch(method.opt_s, student, (generator, teacher))
    watch(method.opt_g, generator, (student, teacher))
    iterate(method, engine, 2)
    assert seen == ["student", "student", "generator"] * 2


def next_noise(seed=0):
    """What the generator's step of the first iteration draws when there is one student step."""
    _, engine = made(seed=seed)
    engine.begin(0, 0.0)
    return [engine.noise(16, 8) for _ in range(2)][1]


@pytest.mark.parametrize("discrepancy", ["l1", "mse", "kl"])
def test_the_generator_looks_for_disagreement_and_the_student_removes_it(discrepancy):
    method, engine = made(alpha=0.0, discrepancy=discrepancy, student_steps=1, lr_s=0.0, lr_g=1e-4, schedule="constant")
    generator, student, teacher = parts(method)
    z = next_noise()

    def disagreement():
        g, s = copy.deepcopy(generator), copy.deepcopy(student)
        with torch.no_grad():
            images = g(z)
            return method.distance(s(images), teacher(images)).item()

    before = disagreement()
    iterate(method, engine, 1)  # the student stands still
    assert disagreement() > before
    before = disagreement()
    method.opt_s.base_lrs = [1e-3]
    with torch.no_grad():
        images = copy.deepcopy(generator)(z)
    engine.minimise(method.loss_s, method.opt_s, inputs=(images,))
    assert disagreement() < before


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_students_mode_in_the_generators_step(mode):
    method, engine = made(student_mode=mode)
    seen = []
    loss_g = method.loss_g
    method.loss_g = lambda z: (seen.append(method.network.training), loss_g(z))[1]
    engine.begin(0, 0.0)
    counts = method.network.module.blocks[0][1].num_batches_tracked
    before = int(counts)
    method.step(engine)
    assert seen == [mode == "train"]
    assert method.network.training
    assert int(counts) - before == (3 if mode == "train" else 2)


# ---------------------------------------------------------------- the terms


def terms_of(**settings):
    method, engine = made(**settings)
    engine.begin(0, 0.0)
    with torch.no_grad():
        return {k: v.item() for k, v in method.loss_g(engine.noise(16, 8))[0].items()}


def test_weights_are_linear_and_zero_leaves_a_term_out():
    one, more = terms_of(alpha=1.0), terms_of(alpha=2.5, w_onehot=1.0, w_balance=2.0)
    assert one.keys() == {"adversarial", "bn"}
    assert more["bn"] == pytest.approx(2.5 * one["bn"], rel=1e-5)
    assert more["adversarial"] == pytest.approx(one["adversarial"], rel=1e-5)
    assert one["bn"] > 0
    assert one["adversarial"] < 0
    assert terms_of(alpha=0.0) == {"adversarial": pytest.approx(one["adversarial"])}
    assert terms_of(w_adv=0.0) == {"bn": pytest.approx(one["bn"])}
    assert terms_of(w_adv=3.0)["adversarial"] == pytest.approx(3 * one["adversarial"])
    with pytest.raises(InputError, match="the generator has no loss"):
        made(alpha=0.0, w_adv=0.0)
    twice = terms_of(w_onehot=2.0, w_balance=4.0)
    assert twice["onehot"] == pytest.approx(2 * more["onehot"], rel=1e-5)
    assert twice["balance"] == pytest.approx(2 * more["balance"], rel=1e-5)
    assert terms_of(bn_form="gaussian_kl")["bn"] != pytest.approx(one["bn"], rel=1e-2)


def test_the_distances_are_those_of_their_names():
    s, t = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    assert distance("l1", 1.0)(s, t).item() == 2.0
    assert distance("mse", 1.0)(s, t).item() == 5.0
    expected = 4 * F.kl_div((s / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")
    assert made(discrepancy="kl", tau=2.0)[0].distance(s, t).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_statistics_know_real_images_from_noise(digits_teacher):
    test = load_images("digits", "test")
    real = to_float(test.pixels)
    probe = Probe(digits_teacher, bn=True)
    with torch.no_grad():
        seen = probe(real, stats=True)
        assert (seen.logits.argmax(1) == test.labels).float().mean() > 0.9
        noise = probe(torch.rand(real.shape, generator=torch.Generator().manual_seed(0)), stats=True)
    for form in ("norm", "gaussian_kl"):
        assert bn_statistics(seen.moments, form) < 0.2 * bn_statistics(noise.moments, form)


def test_the_generator_learns_the_statistics(digits_teacher):
    given = make_given(copy.deepcopy(digits_teacher), tiny_network((3, 4), 1, num_classes=10))
    method, engine = made(given=given, batch_size=64, nz=16, width=8, student_steps=1, alpha=1.0, schedule="constant")
    first = engine_terms(method, engine, 1)
    # It comes to half, a little above or below it by the order in which a machine adds.
    assert engine_terms(method, engine, 40)["generator/bn"] < 0.5 * first["generator/bn"]


def test_one_step_of_the_generator_without_an_adversary_lowers_the_statistics_term(digits_teacher):
    """On the same noise."""
    given = make_given(copy.deepcopy(digits_teacher), tiny_network((3, 4), 1, num_classes=10))
    method, engine = made(given=given, batch_size=64, nz=16, width=8, w_adv=0.0, lr_g=1e-4, schedule="constant")
    engine.begin(0, 0.0)
    z = engine.noise(64, 16)
    values = []
    for _ in range(2):
        engine.minimise(method.loss_g, method.opt_g, inputs=(z,))
        values.append(engine.read()["generator/bn"])
    assert values[1] < values[0]


def test_the_adversarial_term_is_the_distance_or_its_logarithm():
    forms = {"plain": lambda d: -0.5 * d, "log": lambda d: -0.5 * math.log1p(d)}
    maps = make_given(dense_network(6, 0), dense_network(3, 1))
    for given, auto in ((None, "plain"), (maps, "log")):
        for form in ("auto", "plain", "log"):
            method, engine = made(given=given, adversarial=form, alpha=0.0, w_adv=0.5)
            engine.begin(0, 0.0)
            terms, (images, t) = method.loss_g(engine.noise(16, 8))
            with torch.no_grad():
                d = float((method.student(images) - t).abs().mean())
            expected = forms[auto if form == "auto" else form](d)
            assert float(terms["adversarial"].detach()) == pytest.approx(expected, rel=1e-5)


def test_the_first_discriminator_weighs_three_times_the_second_and_as_much_for_maps():
    assert made(alpha="auto")[0].weighing.ratio == 3.0
    assert made(alpha="auto", given=make_given(dense_network(6, 0), dense_network(3, 1)))[0].weighing.ratio == 1.0
    assert made(alpha="auto", alpha_ratio=10.0)[0].weighing.ratio == 10.0


def engine_terms(method, engine, iterations):
    iterate(method, engine, iterations - 1)
    engine.read()
    engine.begin(iterations - 1, 0.0)
    method.step(engine)
    return engine.read()


# ---------------------------------------------------------------- replay


def test_replay_trains_on_what_is_in_the_bank():
    method, engine = made(replay=0.5, bank=40, crop=0)
    fed = []
    loss_s = method.loss_s
    method.loss_s = lambda images, t=None: (fed.append(images), loss_s(images, t))[1]
    iterate(method, engine, 1)
    assert method.stored.added == 32  # nothing to replay yet: both batches were new
    stored = method.stored.draw(torch.arange(40)).images
    engine.begin(1, 0.5)
    method.step(engine)
    assert method.stored.added == 48
    assert len(method.stored) == 40
    replayed, fresh = fed[2:]
    assert all((stored == image).flatten(1).all(1).any() for image in replayed)
    assert not any((stored == image).flatten(1).all(1).any() for image in fresh)
    assert not any(images.requires_grad for images in fed)  # nothing is computed towards the generator
    assert method.opt_s.steps == 4


def test_replayed_images_are_shifted_and_mirrored():
    method, engine = made(replay=0.5, bank=16, crop=1, flip=True)
    engine.begin(0, 0.0)
    ramp = torch.arange(64).view(1, 1, 8, 8).expand(16, 1, 8, 8) / 255
    method.stored.add(ramp)
    ramp = method.stored.draw(torch.arange(16)).images
    images = method.images(engine, 0)
    padded = F.pad(ramp[0], [1] * 4)
    windows = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    windows += [w.flip(2) for w in windows]
    kinds = [next(k for k, w in enumerate(windows) if torch.allclose(w, image)) for image in images]
    assert len(set(kinds)) > 5
    assert min(kinds) < 9 <= max(kinds)


@pytest.mark.parametrize(("replay", "steps"), [(0.3, 5), (0.5, 1)])
def test_a_replay_that_makes_no_whole_steps(replay, steps):
    with pytest.raises(InputError, match=f"replay is {replay} of {steps} student steps"):
        made(replay=replay, student_steps=steps)


@pytest.mark.parametrize("replay", [1.0, 1.5])
def test_a_replay_that_leaves_no_fresh_images(replay):
    with pytest.raises(InputError, match=f"replay is {replay}: it must be at least 0 and below 1"):
        build_method({"name": "ddad", "replay": replay})


def test_without_replay_nothing_is_stored():
    method, engine = made(replay=0.0)
    iterate(method, engine, 1)
    assert engine.banks == {}


def test_reuse_wants_a_generator_step():
    with pytest.raises(InputError, match="generator_steps is 0"):
        made(reuse=True, generator_steps=0)


def test_the_generator_for_large_images_has_one_head():
    with pytest.raises(InputError, match="head is linear"):
        made(size="large", head="linear")


def test_reuse_asks_generator_and_teacher_once_an_iteration():
    method, engine = made(reuse=True, student_steps=4, bank=64)
    asked, fed = [], []
    method.teacher.module.network.register_forward_hook(lambda *_: asked.append("teacher"))
    method.generator.module.register_forward_hook(lambda *_: asked.append("generator"))
    loss_s = method.loss_s
    method.loss_s = lambda images, t=None: (fed.append((images, t)), loss_s(images, t))[1]
    iterate(method, engine, 2)
    assert sorted(asked) == ["generator", "generator", "teacher", "teacher"]
    assert method.opt_s.steps == 8
    assert method.stored.added == 32
    with torch.no_grad():
        for images, t in fed:
            assert not t.requires_grad
            # What was stored is what the teacher says of the image, but for rounding both to fewer bits.
            assert torch.allclose(method.teacher(images).logits, t, atol=0.05)
    whole, first = method.stored.draw(torch.arange(16)).images, fed[0][0]
    assert torch.allclose(whole, first, atol=(0.5 + method.stored.margin) / 255 + 1e-6)  # the generator's own first


@pytest.mark.parametrize("more", [{"replay": 0.5}, {"crop": 1}, {"flip": True}])
def test_reuse_keeps_logits_of_whole_images(more):
    with pytest.raises(InputError, match="leave out replay, crop and flip"):
        made(reuse=True, **more)


# ---------------------------------------------------------------- the weight of the first discriminator


def test_alpha_is_weighed_on_an_untrained_generator():
    method, engine = made(alpha="auto", alpha_after=6, alpha_ratio=3.0)
    weigh, distil = method.phases(20)
    assert (weigh.iterations, distil.iterations) == (3, 7)
    assert [p.iterations for p in method.phases(5)] == [3]  # a run too short for more
    generator = copy.deepcopy(method.generator.module)
    bn, distances = [], []
    for i in range(weigh.iterations):
        engine.begin(i, i / weigh.iterations, weigh.schedules)
        student, images = copy.deepcopy(method.network), []
        method.make = lambda e, seen=images: (seen.append(DDAD.make(method, e)), seen[-1])[1]
        weigh.step(engine)
        assert len(images) == 3  # two for the student, one to weigh on
        assert not all(
            torch.equal(a, b) for a, b in zip(student.parameters(), method.network.parameters(), strict=True)
        )
        assert engine.owned["student"].opt.param_groups[0]["lr"] == pytest.approx(0.1)  # no decay yet
        with torch.no_grad():
            t = method.teacher(images[-1], stats=True)
            bn.append(bn_statistics(t.moments))
            distances.append((copy.deepcopy(method.network)(images[-1]) - t.logits).abs().mean())
        assert float(method.weight) == pytest.approx(float(3 * distances[-1] / torch.stack(bn).mean()), rel=1e-5)
    assert all(
        torch.equal(a, b) for a, b in zip(generator.parameters(), method.generator.module.parameters(), strict=True)
    )
    assert engine.read()["generator/alpha"] > 0
    weight = float(method.weight)
    engine.begin(3, 0.0)
    distil.step(engine)
    assert float(method.weight) == weight  # constant from here on
    terms, _ = method.loss_g(torch.zeros(16, 8))
    fixed, other = made(alpha=weight)
    other.begin(3, 0.0)
    assert terms["bn"].detach() > 0
    fixed.generator.module.load_state_dict(method.generator.module.state_dict())
    assert torch.allclose(fixed.loss_g(torch.zeros(16, 8))[0]["bn"], terms["bn"])


def test_alpha_is_a_number_or_auto():
    assert DDAD(alpha="auto").needed == DDAD().needed
    with pytest.raises(InputError, match="alpha"):
        build_method({"name": "ddad", "alpha": "much"})
    assert build_method({"name": "ddad", "alpha": "2e-1"}).alpha == 0.2
    assert build_method({"name": "ddad", "alpha": "auto"}).alpha == "auto"
    for never, range in (({"alpha_ratio": 0.0}, "above 0"), ({"alpha_after": 0}, "at least 1")):
        with pytest.raises(InputError, match=f"{next(iter(never))} is 0.*: it must be {range}"):
            build_method({"name": "ddad", "alpha": "auto", **never})


# ---------------------------------------------------------------- what it says of itself


def test_what_it_needs():
    assert DDAD().needed == {"bn", "input_gradient", "sides"}
    assert DDAD(alpha=0.0).needed == {"input_gradient", "sides"}
    assert DDAD.outside == ()


def test_dfad_takes_a_teacher_without_batch_norm():
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    teacher = Network(body, num_classes=4, image_size=8, channels=1)
    method, engine = made(given=make_given(teacher, tiny_network((3, 4), 1)), alpha=0.0)
    iterate(method, engine, 2)
    assert set(engine.read()) >= {"generator/adversarial", "student/discrepancy"}
