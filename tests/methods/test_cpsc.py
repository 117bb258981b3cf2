"""CPSC against a plain loop written from the equations, its two variants, and who learns from what."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import make_given, tiny_network
from torch import nn
from torch.optim import SGD, Adam

from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.losses.contrastive import supervised_contrast
from dreamstill.losses.distillation import kl
from dreamstill.methods import check_contract
from dreamstill.methods.cpsc import CPSC
from dreamstill.methods.parts import contrast
from dreamstill.methods.parts.class_images import ClassImages
from dreamstill.methods.parts.contrast import penultimate
from dreamstill.networks.network import Network
from dreamstill.runs.settings import build_method, method_spec

SMALL = {"batch_size": 16, "nz": 8, "width": 4, "generator_steps": 2, "student_steps": 2, "warmup": 0.0}
UNCONDITIONAL = {"condition": "none", "eta": 0.0, "gamma": 0.0}


def made(precision="32", student=(3, 4), given=None, **settings):
    given = given or make_given(tiny_network((6, 8), 0), tiny_network(student, 1))
    engine = Engine(given, device="cpu", precision=precision, seed=0, steps=100)
    method = CPSC.variant_of(settings)(**{**SMALL, **settings})
    method.check(engine.task.name)
    method.setup(engine)
    engine.begin(0, 0.0)
    return method, engine


def iterate(method, engine, iterations):
    for i in range(iterations):
        engine.begin(i, i / iterations)
        method.step(engine)


def parts(method):
    """Generator, student, teacher and projection (or None), without the engine's wrappers."""
    head = method.contrast.project.module if method.contrast.project is not None else None
    return method.generator.module, method.network, method.teacher.module.network, head


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def moved(module, before):
    return [not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True)]


# ---------------------------------------------------------------- the algorithm


def watched(network, images):
    """Logits, what enters the last layer, and what enters each batch norm."""
    features, entered, handles = [], [], []
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            handles.append(layer.register_forward_pre_hook(lambda m, x: entered.append((m, x[0]))))
    handles.append(network.module.linear.register_forward_pre_hook(lambda m, x: features.append(x[0])))
    logits = network(images)
    for handle in handles:
        handle.remove()
    return logits, features[0], entered


def statistics(entered):
    total = 0.0
    for layer, x in entered:
        total = total + (x.mean((0, 2, 3)) - layer.running_mean).norm()
        total = total + (x.var((0, 2, 3), correction=0) - layer.running_var).norm()
    return total


def plain_loop(generator, student, teacher, head, draws, released, alpha=5.0, beta=1.0, gamma=0.7, eta=0.7):
    """CPSC written down directly: generator steps and student steps, each on noise and labels of its own."""
    in_student = [*student.parameters(), *(head.parameters() if released else [])]
    opt_s = SGD(in_student, lr=0.1, momentum=0.9, weight_decay=5e-4)
    opt_g = Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    opt_p = Adam(head.parameters(), lr=1e-3)

    def cross_entropy(logits, y):
        return F.cross_entropy(logits.softmax(1) if released else logits, y)

    for i, (for_g, for_s) in enumerate(draws):
        opt_s.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * i / len(draws)))
        for z, y in for_g:
            z = nn.Parameter(z)
            if released:
                opt_g = Adam([*generator.parameters(), z], lr=1e-3, betas=(0.5, 0.999))
            images = generator(z, y)
            t, f_t, entered = watched(teacher, images)
            s, f_s, _ = watched(student, images)
            f_s = head(F.normalize(f_s))
            f_s = f_s if released else F.normalize(f_s)
            loss = -(t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
            loss = loss - alpha * F.mse_loss(s, t.detach()) + beta * statistics(entered)
            loss = loss + gamma * supervised_contrast([f_s, F.normalize(f_t)], y) + eta * cross_entropy(t, y)
            opt_g.zero_grad()
            opt_p.zero_grad()
            loss.backward()
            opt_g.step()
            if not released:
                opt_p.step()
        for z, y in for_s:
            images = generator(z, y).detach()
            t, s = teacher(images).detach(), student(images)
            loss = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
            loss = loss + alpha * F.mse_loss(s, t) + eta * cross_entropy(s, y)
            opt_s.zero_grad()
            loss.backward()
            opt_s.step()


@pytest.mark.parametrize("variant", ["repaired", "released"])
def test_it_is_the_algorithm(variant):
    """The released code also has z in its optimiser; that changes nothing, which is why no variant of ours has."""
    method, engine = made("64", variant=variant, alpha=5.0)
    reference = [copy.deepcopy(m) for m in parts(method)]
    start = copy.deepcopy(reference)
    _, other = made("64", variant=variant)

    def draw(i):
        other.begin(i, 0.0)
        drawn = [(other.noise(16, 8), other.labels(16)) for _ in range(4)]
        return drawn[:2], drawn[2:]

    draws = [draw(i) for i in range(3)]
    iterate(method, engine, 3)
    plain_loop(*reference, draws, released=variant == "released")
    for which, ours, theirs, before in zip("gstp", parts(method), reference, start, strict=True):
        theirs, before = theirs.state_dict(), before.state_dict()
        for name, value in ours.state_dict().items():
            assert torch.allclose(value.double(), theirs[name].double(), atol=1e-9), (which, name)
        change = max((theirs[k].double() - v.double()).abs().max() for k, v in before.items())
        assert change > 1e-4 if which in "gs" or (which, variant) == ("p", "repaired") else change == 0


def test_the_iteration_counts_student_steps():
    method, engine = made(generator_steps=6, student_steps=5)
    assert [p.iterations for p in method.phases(101)] == [21]
    iterate(method, engine, 2)
    assert (method.opt_g.steps, method.opt_s.steps) == (12, 10)


def test_the_student_warms_up_from_nothing_and_follows_a_cosine():
    method, engine = made(warmup=0.1)
    before = weights(method.network)
    method.step(engine)
    assert not any(moved(method.network, before))
    rates = []
    for progress in (0.05, 0.1, 0.55):
        engine.begin(1, progress)
        method.step(engine)
        rates.append(engine.read()["lr/student"])
    assert rates == pytest.approx([0.05, 0.1, 0.05])


@pytest.mark.parametrize(("schedule", "rates"), [("constant", (1, 1, 1)), ("step", (1, 0.1, 0.01))])
def test_the_generators_schedule(schedule, rates):
    method, engine = made(schedule_g=schedule)
    found = []
    for progress in (0.08, 0.1, 0.3):
        engine.begin(0, progress)
        method.step(engine)
        found.append(engine.read()["lr/generator"])
    assert found == pytest.approx([1e-3 * r for r in rates])


# ---------------------------------------------------------------- who learns from what


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_generators_step_moves_the_generator_and_the_projection_only(mode):
    method, engine = made(student_steps=0, generator_steps=1, student_mode=mode)
    generator, student, teacher, head = parts(method)
    before = [weights(m) for m in parts(method)]
    state = copy.deepcopy(teacher.state_dict())
    buffers = [b.clone() for b in student.module.buffers()]
    method.step(engine)
    # Linear and the first convolutions are followed by a batch norm: their biases may stay.
    assert sum(moved(generator, before[0])) >= 10
    assert not any(moved(student, before[1]))
    assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())
    assert all(moved(head, before[3]))
    changed = [not torch.equal(a, b) for a, b in zip(student.module.buffers(), buffers, strict=True)]
    assert all(changed) if mode == "train" else not any(changed)
    assert student.training


def test_the_students_step_moves_the_student_only():
    method, engine = made(generator_steps=0, student_steps=1)
    generator, student, teacher, head = parts(method)
    before = [weights(m) for m in parts(method)]
    state = copy.deepcopy(teacher.state_dict())
    running = generator.norm1.bn.running_mean.clone()
    method.step(engine)
    assert not any(moved(generator, before[0]))
    assert not torch.equal(generator.norm1.bn.running_mean, running)  # in train mode throughout
    assert any(moved(student, before[1]))
    assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())
    assert not any(moved(head, before[3]))
    method, engine = made(generator_steps=0, student_steps=1, gamma_s=1.0)
    before = weights(method.contrast.project)
    method.step(engine)
    assert all(moved(method.contrast.project, before))


def image_gradients(method, stop_teacher=(), stop_student=()):
    """Gradient of each term of L_G on the images, with the logits or features of a network held fixed."""
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    y = torch.arange(16) % 4

    def held(network, stop):
        def call(x, **options):
            seen = network(x, **options)
            if "logits" in stop:
                seen = seen._replace(logits=seen.logits.detach())
            if "taps" in stop:
                seen = seen._replace(taps={k: v.detach() for k, v in seen.taps.items()})
            return seen

        return call

    method.generator = lambda _z, _y: images
    method.teacher, teacher = held(method.teacher, stop_teacher), method.teacher
    method.student, student = held(method.student, stop_student), method.student
    terms, _ = method.loss_g(None, y)
    method.teacher, method.student = teacher, student

    def gradient(term):
        if not term.requires_grad:
            return torch.zeros_like(images)
        found = torch.autograd.grad(term, images, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(images) if found is None else found

    return {k: gradient(v) for k, v in terms.items()}


def test_through_which_networks_each_term_of_the_generators_loss_goes():
    method, _ = made()
    whole = image_gradients(method)
    assert whole.keys() == {"kl", "logits", "bn", "contrast", "label"}
    assert all(g.abs().max() > 0 for g in whole.values())

    def unchanged(**stop):
        return {k for k, g in image_gradients(method, **stop).items() if torch.allclose(g, whole[k], atol=1e-8)}

    def gone(**stop):
        return {k for k, g in image_gradients(method, **stop).items() if not g.any()}

    assert unchanged(stop_teacher=["logits"]) == {"logits", "bn", "contrast"}  # L_2 holds the teacher's logits anyway
    assert gone(stop_teacher=["logits"]) == {"label"}
    assert unchanged(stop_student=["logits"]) == {"bn", "contrast", "label"}
    assert gone(stop_student=["logits"]) == {"logits"}  # and the KL still has its way through the teacher
    assert unchanged(stop_teacher=["taps"]) == unchanged(stop_student=["taps"]) == {"kl", "logits", "bn", "label"}
    assert not gone(stop_teacher=["taps"]) | gone(stop_student=["taps"])
    assert gone(stop_teacher=["taps"], stop_student=["taps"]) == {"contrast"}


def test_detaching_the_teacher_in_the_kl_is_a_switch():
    method, _ = made(detach_teacher=True)
    held, whole = image_gradients(method, stop_teacher=["logits"]), image_gradients(method)
    assert torch.equal(held["kl"], whole["kl"])
    live = image_gradients(made()[0])
    assert not torch.allclose(live["kl"], whole["kl"], atol=1e-8)
    assert torch.equal(live["logits"], whole["logits"])


@pytest.mark.parametrize("variant", ["repaired", "released"])
def test_a_class_moves_its_own_rows_of_the_conditional_norms(variant):
    method, engine = made(variant=variant, student_steps=0)

    class OfTwo(ClassImages):
        def draw(self, engine):
            return engine.noise(16, 8), torch.arange(16) % 2  # of four classes

    method.source = OfTwo(method.generator, 16, 8)
    iterate(method, engine, 2)
    generator = parts(method)[0]
    for norm in (generator.norm0, generator.norm1, generator.norm2, generator.norm3):
        for table, fresh in ((norm.gain.weight, 1.0), (norm.bias.weight, 0.0)):
            assert (table[:2] != fresh).any(1).all()
            assert (table[2:] == fresh).all()


# ---------------------------------------------------------------- the released variant


def test_the_released_adam_descends_by_sign():
    method, engine = made("64", variant="released", generator_steps=1, student_steps=0)
    generator, opt = parts(method)[0], method.opt_g.opt
    gradients = []
    opt.register_step_pre_hook(lambda *_: gradients.append([p.grad.clone() for p in generator.parameters()]))
    for _ in range(3):
        before = weights(generator)
        method.step(engine)
        sure = [g.abs() > 1e-3 for g in gradients[-1]]
        assert any(s.any() for s in sure)
        for p, b, g, s in zip(generator.parameters(), before, gradients[-1], sure, strict=True):
            assert torch.allclose((b - p)[s], 1e-3 * g.sign()[s], rtol=2e-5)
        assert not opt.state_dict()["state"]


def test_the_repaired_adam_remembers():
    method, engine = made("64", generator_steps=1, student_steps=0)
    generator = parts(method)[0]
    method.step(engine)
    before = weights(generator)
    assert len(method.opt_g.opt.state_dict()["state"]) == len(before)
    method.step(engine)
    steps = torch.cat([(p - b).abs().flatten() for p, b in zip(generator.parameters(), before, strict=True)])
    of_one_length = torch.isclose(steps, torch.tensor(1e-3, dtype=steps.dtype), rtol=1e-3)
    assert of_one_length.double().mean() < 0.1


@pytest.mark.parametrize(("k", "right", "wrong"), [(10, 1.4612, 2.4612), (100, 3.6222, 4.6222), (200, 4.3069, 5.3069)])
def test_the_released_cross_entropy_is_that_of_a_softmax_of_a_softmax(k, right, wrong):
    released, repaired = (build_method({"name": "cpsc", "variant": v}) for v in ("released", "repaired"))
    sure, y = 100 * torch.eye(k)[:1], torch.tensor([0])
    assert released.cross_entropy(sure, y).item() == pytest.approx(right, abs=1e-4)
    assert released.cross_entropy(sure, y + 1).item() == pytest.approx(wrong, abs=1e-4)
    assert repaired.cross_entropy(sure, y).item() == pytest.approx(0.0, abs=1e-4)
    assert repaired.cross_entropy(sure, y + 1).item() == pytest.approx(100.0, abs=1e-3)
    for method in (released, repaired):
        assert method.cross_entropy(torch.zeros(1, k), y).item() == pytest.approx(math.log(k), abs=1e-5)
    even = torch.zeros(1, k, requires_grad=True)
    slopes = [torch.autograd.grad(m.cross_entropy(even, y), even)[0][0, 0] for m in (released, repaired)]
    assert slopes[0] / slopes[1] == pytest.approx(1 / k, rel=1e-4)  # nearly blind


def terms_of(student=(3, 4), **settings):
    """Weighted terms of both losses on the same draw."""
    method, engine = made(student=student, **settings)
    z, y = method.source.draw(engine)
    with torch.no_grad():
        terms_g, _ = method.loss_g(z, y)
        images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(3))
        terms_s = method.loss_s(images, y)
    return {k: v.item() for k, v in terms_g.items()}, {k: v.item() for k, v in terms_s.items()}


def differing(a, b):
    assert a.keys() == b.keys()
    return {k for k in a if a[k] != pytest.approx(b[k], rel=1e-5, abs=1e-7)}


def test_the_released_variant_differs_where_it_should_and_only_there():
    settings = {"gamma_s": 1.0}
    (g, s), (other_g, other_s) = terms_of(**settings), terms_of(variant="released", **settings)
    assert differing(g, other_g) == {"label", "contrast"}  # the contrast by the length of the projected features
    assert differing(s, other_s) == {"label", "contrast"}
    (g, s), (other_g, other_s) = (terms_of((3, 8), variant=v, **settings) for v in ("repaired", "released"))
    assert differing(g, other_g) == differing(s, other_s) == {"label"}  # equal widths: nothing is projected


@pytest.mark.parametrize("variant", ["repaired", "released"])
def test_the_projection(variant, monkeypatch):
    method, engine = made(variant=variant)
    views = []
    monkeypatch.setattr(
        contrast, "supervised_contrast", lambda v, y, tau: (views.append((v, tau)), supervised_contrast(v, y, tau))[1]
    )
    head = parts(method)[3]
    assert [tuple(p.shape) for p in head.parameters()] == [(4, 4), (4,), (8, 4), (8,)]
    before = weights(head)
    assert "projection" in engine.state()["modules"]
    iterate(method, engine, 2)
    (s, t), tau = views[0]
    assert s.shape == t.shape == (16, 8)
    assert tau == 0.07
    assert torch.allclose(t.norm(dim=1), torch.ones(16), atol=1e-5)
    if variant == "released":
        assert not any(moved(head, before))
        assert not torch.allclose(s.norm(dim=1), torch.ones(16), atol=1e-2)
    else:
        assert all(moved(head, before))
        assert torch.allclose(s.norm(dim=1), torch.ones(16), atol=1e-5)
        assert engine.owned["projection"].opt.state_dict()["state"]


def test_the_projection_is_there_only_where_it_is_needed():
    assert made()[0].contrast.project is not None
    for settings in ({"student": (3, 8)}, {"gamma": 0.0}, {"views": "teacher"}):
        method, engine = made(**settings)
        assert method.contrast.project is None
        assert "projection" not in engine.modules
    assert made(gamma=0.0, gamma_s=1.0)[0].contrast.project is not None


# ---------------------------------------------------------------- the terms


def test_weights_are_linear_and_zero_leaves_a_term_out():
    g, s = terms_of()
    assert g.keys() == {"kl", "logits", "bn", "contrast", "label"}
    assert s.keys() == {"kl", "logits", "label"}
    assert max(g["kl"], g["logits"]) < 0
    assert min(g["bn"], g["contrast"], g["label"], *s.values()) > 0
    more_g, more_s = terms_of(alpha=2.0, beta=3.0, gamma=1.4, eta=2.1, eta_s=0.35, gamma_s=1.0)
    factors = {"kl": 1, "logits": 2, "bn": 3, "contrast": 2, "label": 3}
    assert more_g == pytest.approx({k: factors[k] * v for k, v in g.items()}, rel=1e-5)
    assert more_s.pop("contrast") > 0
    assert more_s == pytest.approx({"kl": s["kl"], "logits": 2 * s["logits"], "label": 0.5 * s["label"]}, rel=1e-5)
    least = terms_of(alpha=0.0, beta=0.0, gamma=0.0, eta=0.0)
    assert [t.keys() for t in least] == [{"kl"}, {"kl"}]
    assert terms_of(eta_s=0.0)[1].keys() == {"kl", "logits"}
    assert terms_of(adversarial=False)[0].keys() == {"bn", "contrast", "label"}
    assert terms_of(views="teacher")[0]["contrast"] != pytest.approx(g["contrast"], rel=1e-3)


@pytest.mark.parametrize("variant", ["repaired", "released"])
def test_the_floor_is_of_the_generators_label_term_alone(variant):
    g, s = terms_of(variant=variant)
    floored_g, floored_s = terms_of(variant=variant, label_floor=50.0)
    assert floored_g["label"] == pytest.approx(0.7 * 50)
    assert floored_s == s
    assert {**floored_g, "label": g["label"]} == g


def test_the_batch_norm_term_is_a_sum_over_layers_or_their_mean():
    total, mean = (terms_of(bn_layers=form)[0]["bn"] for form in ("sum", "mean"))
    assert total == pytest.approx(2 * mean, rel=1e-5)  # the tiny teacher has two


def test_the_logarithmic_form_of_the_logit_term():
    plain, log = terms_of(alpha=1.0), terms_of(alpha=1.0, ikd="log_mse", variant="released")
    assert log[0]["logits"] == pytest.approx(-math.log(-plain[0]["logits"]), rel=1e-5)
    norm = math.sqrt(plain[1]["logits"] * 16 * 4)  # of the whole block of logits
    assert log[1]["logits"] == pytest.approx(math.log(norm), rel=1e-5)
    guarded = terms_of(alpha=1.0, ikd="log_mse")
    assert guarded[0]["logits"] == pytest.approx(log[0]["logits"], rel=1e-4)
    same = make_given(tiny_network((6, 8), 0), tiny_network((6, 8), 0))
    for variant, finite in (("repaired", True), ("released", False)):
        method, _ = made(given=copy.deepcopy(same), ikd="log_mse", variant=variant)
        method.student.eval()
        terms = method.loss_s(torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64))
        assert terms["kl"].item() == pytest.approx(0.0, abs=1e-6)
        assert terms["logits"].isfinite().item() == finite  # a perfect student


def test_the_kl_is_that_of_the_student_from_the_teacher():
    method, _ = made()
    images, y = torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64)
    with torch.no_grad():
        s, t = method.student(images).logits, method.teacher(images).logits
        assert method.loss_s(images, y)["kl"] == kl(s, t)


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize("settings", [{"condition": "ccbn"}, {"condition": "concat"}, UNCONDITIONAL])
def test_the_class_is_in_the_image_where_there_is_a_condition(settings):
    method, engine = made(**settings)
    iterate(method, engine, 3)
    generator = copy.deepcopy(parts(method)[0]).eval()
    z, y = torch.randn(4, 8), torch.arange(4)
    same = torch.equal(generator(z, y), generator(z, (y + 1) % 4))
    assert same == (settings["condition"] == "none")
    assert set(engine.read()) >= {"generator/kl", "student/kl"}


@pytest.mark.slow
def test_the_generator_learns_to_make_the_class_it_is_told(digits_teacher):
    given = make_given(copy.deepcopy(digits_teacher), tiny_network((3, 4), 1, num_classes=10))
    settings = {"batch_size": 64, "nz": 16, "width": 8, "student_steps": 0, "lr_g": 1e-2}
    method, engine = made(given=given, adversarial=False, **settings)

    def obeyed():
        z, y = method.source.draw(engine)
        with torch.no_grad():
            return (method.teacher(method.generator(z, y)).logits.argmax(1) == y).float().mean().item()

    assert obeyed() < 0.4
    iterate(method, engine, 40)
    assert obeyed() > 0.9


# ---------------------------------------------------------------- wrong inputs, and what it says of itself


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condition": "none"}, "condition is none"),
        ({"condition": "none", "gamma": 0.0}, "condition is none"),
        ({**UNCONDITIONAL, "eta_s": 0.1}, "condition is none"),
        ({**UNCONDITIONAL, "gamma_s": 0.1}, "condition is none"),
        ({"views": "teacher", "gamma_s": 0.1}, "views is teacher"),
        ({"adversarial": False, "beta": 0.0, "gamma": 0.0, "eta": 0.0}, "the generator has no loss"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(InputError, match=message):
        made(**settings)


@pytest.mark.parametrize(("settings", "message"), [({"warmup": 1.0}, "below 1"), ({"tau": 0.0}, "above 0")])
def test_numbers_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        build_method({"name": "cpsc", **settings})


@pytest.mark.parametrize("spec", [{"variant": "released"}, CPSC(variant="released")])
def test_the_released_variant_is_a_class_of_its_own_and_keeps_the_methods_name(spec):
    built = build_method({"name": "cpsc", **spec} if isinstance(spec, dict) else spec)
    assert type(built) is CPSC.variant_of({"variant": "released"}) is not CPSC
    assert method_spec(built) == method_spec(CPSC(variant="released"))
    assert method_spec(built)["name"] == "cpsc"
    assert build_method(method_spec(built)) == built  # as a resumed run does
    assert type(build_method("cpsc")) is CPSC


def test_the_released_variant_made_of_the_repaired_class_is_refused():
    _, engine = made()
    with pytest.raises(InputError, match="ask for ReleasedCPSC"):
        check_contract(CPSC(variant="released"), engine, 10)


def test_what_it_needs():
    assert CPSC().needed == {"bn", "input_gradient", "linear_head", "sides"}
    assert CPSC(beta=0.0).needed == {"input_gradient", "linear_head", "sides"}
    assert CPSC(gamma=0.0).needed == {"bn", "input_gradient", "sides"}
    assert CPSC(gamma=0.0, gamma_s=1.0).needed == {"bn", "input_gradient", "linear_head", "sides"}
    assert CPSC.outside == ()


class HoldsItsClassifier(nn.Module):
    """As torchvision's networks do: ``classifier`` is a layer, not a name."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 4))

    def forward(self, x):
        return self.classifier(x)


def test_the_features_are_what_enters_the_last_linear_layer():
    assert penultimate(tiny_network((6, 8), 0), "teacher") == (["linear:input"], 8)
    own = Network(HoldsItsClassifier(), num_classes=4, image_size=8, channels=1)
    assert penultimate(own, "student") == (["classifier.3:input"], 7)
    method, engine = made(given=make_given(tiny_network((6, 8), 0), own))
    iterate(method, engine, 1)
    assert engine.read()["generator/contrast"] > 0


def test_a_student_without_a_linear_layer():
    body = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
    student = Network(body, num_classes=4, image_size=8, channels=1)
    given = make_given(tiny_network((6, 8), 0), student)
    with pytest.raises(InputError, match=r"the student Sequential has no nn\.Linear"):
        made(given=copy.deepcopy(given))
    method, engine = made(given=given, gamma=0.0)
    iterate(method, engine, 1)


def test_the_generators_head_is_as_asked():
    method, engine = made(head="linear")
    iterate(method, engine, 1)
    assert method.generator.module.head == "linear"


def test_reuse_asks_generator_and_teacher_once_a_generator_step():
    method, engine = made(reuse=True, student_steps=4, bank=64)
    asked, fed = [], []
    method.teacher.module.network.register_forward_hook(lambda *_: asked.append("teacher"))
    method.generator.module.register_forward_hook(lambda *_: asked.append("generator"))
    loss_s = method.loss_s
    method.loss_s = lambda images, y, t=None: (fed.append((images, y, t)), loss_s(images, y, t))[1]
    iterate(method, engine, 2)
    assert sorted(asked) == ["generator"] * 4 + ["teacher"] * 4
    assert method.opt_s.steps == 8
    assert method.stored.added == 64
    old = method.stored.draw(torch.arange(64))
    with torch.no_grad():
        for images, y, t in fed:
            assert not t.requires_grad
            assert torch.allclose(method.teacher(images).logits, t, atol=0.05)  # rounded to fewer bits
            near = (images[:, None] - old.images).abs().amax((2, 3, 4)) < (0.5 + method.stored.margin) / 255 + 1e-6
            assert (near & (y[:, None] == old.labels)).any(1).all()


@pytest.mark.parametrize(
    ("settings", "says"), [({"generator_steps": 0}, "generator_steps is 0"), ({"gamma_s": 1.0}, "set gamma_s to 0")]
)
def test_reuse_wants_generator_steps_and_no_features(settings, says):
    with pytest.raises(InputError, match=says):
        made(reuse=True, **settings)
