"""CGDD: who learns from what, in which phase, and what each switch takes away."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import make_given, tiny_network

from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.losses.attention import attention_distance
from dreamstill.losses.distillation import kl, masked_cross_entropy
from dreamstill.methods.cgdd import CGDD
from dreamstill.networks import builtin
from dreamstill.networks.network import Network
from dreamstill.runs.settings import build_method

SMALL = {"batch_size": 16, "nz": 8, "width": 4, "student_steps": 2}


def pair(teacher=(6, 8), student=(3, 4)):
    return make_given(tiny_network(teacher, 0), tiny_network(student, 1))


def made(given=None, seed=0, steps=100, **settings):
    engine = Engine(given or pair(), device="cpu", seed=seed, steps=steps)
    settings = {**SMALL, **settings}
    method = CGDD.variant_of(settings)(**settings)
    method.check(engine.task.name)
    method.setup(engine)
    return method, engine


def go(method, engine, steps=12):
    """All phases; returns the readings of each."""
    first, readings = 0, {}
    for phase in method.phases(steps):
        for i in range(phase.iterations):
            engine.begin(first + i, i / phase.iterations, phase.schedules)
            phase.step(engine)
        first += phase.iterations
        readings[phase.name] = engine.read()
    return readings


def frozen_copy(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def unchanged(before, module):
    return all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def batch(method, engine):
    engine.begin(0, 0.0)
    return method.images.draw(engine)


# ---------------------------------------------------------------- phases and who moves in them


def test_alternating_counts_student_steps_and_has_a_phase_before():
    method, engine = made(student_steps=5, pre=0.05)
    assert [(p.name, p.iterations) for p in method.phases(500)] == [("generate", 5), ("distil", 100)]
    assert [(p.name, p.iterations) for p in made(pre=0.0)[0].phases(501)] == [("distil", 251)]
    method, engine = made(pre=0.5, generator_steps=3)
    go(method, engine, 4)
    assert (method.opt_g.steps, method.opt_s.steps) == (3 * 2 + 3 * 2, 2 * 2)


def test_two_stages_share_the_steps():
    phases = made(mode="two_stage", stage_one=0.5)[0].phases(100)
    assert [(p.name, p.iterations) for p in phases] == [("generate", 100), ("distil", 100)]
    assert made(mode="two_stage", stage_one=0.2)[0].phases(100)[0].iterations == 25


@pytest.mark.parametrize("mode", ["alternating", "two_stage"])
def test_before_the_student_learns_only_the_generator_moves(mode):
    method, engine = made(mode=mode, pre=0.5)
    student, teacher = frozen_copy(method.network), frozen_copy(engine.given.teacher)
    generator = frozen_copy(method.generator.module)
    phase = method.phases(6)[0]
    for i in range(phase.iterations):
        engine.begin(i, i / phase.iterations, phase.schedules)
        phase.step(engine)
    assert phase.name == "generate"
    assert unchanged(student, method.network)  # batch-norm buffers too: it is not asked
    assert unchanged(teacher, engine.given.teacher)
    assert not unchanged(generator, method.generator.module)
    assert engine.read().keys() == {"generator/class", "generator/bn", "lr/generator"}
    if mode == "alternating":  # its schedule begins with the phase after
        assert method.opt_g.opt.param_groups[0]["lr"] == 1e-3


def test_the_generator_does_not_move_in_stage_two():
    method, engine = made(mode="two_stage")
    one, two = method.phases(4)
    for i in range(one.iterations):
        engine.begin(i, i / one.iterations)
        one.step(engine)
    generator, student = frozen_copy(method.generator.module), frozen_copy(method.network)
    for i in range(two.iterations):
        engine.begin(one.iterations + i, i / two.iterations)
        two.step(engine)
    assert unchanged(generator, method.generator.module)  # buffers included
    assert not unchanged(student, method.network)
    method.synthesise(engine, 20)
    assert unchanged(generator, method.generator.module)


def test_stage_two_makes_the_same_images_after_a_resume():
    """A fresh set-up is in train mode; the images must not depend on that."""
    method, engine = made(mode="two_stage")
    go(method, engine, 4)
    other, fresh = made(mode="two_stage")
    fresh.load(engine.state())
    images = []
    for m, e in ((method, engine), (other, fresh)):
        e.begin(9, 0.5)
        images.append(m.synthesise(e, 16))
    assert torch.equal(*images)


def test_each_loss_reaches_only_its_own_networks():
    method, engine = made(w_adv_maps=1.0, w_act=1.0, feat="hint", pre=0.0)
    modules = {
        "generator": method.generator.module, "student": method.network, "adapters": method.maps.adapters.module,
        "teacher": engine.given.teacher,
    }  # fmt: skip
    seen = []

    def watch(owned, learning):
        step = owned.opt.step

        def checked():
            for name, module in modules.items():
                grads = [p.grad for p in module.parameters()]
                if name in learning:
                    assert any(g is not None and g.abs().sum() > 0 for g in grads), name
                    assert all(g is None or g.isfinite().all() for g in grads)
                elif name not in ("student", "adapters") or owned.name == "generator":
                    assert all(g is None for g in grads), name
            seen.append(owned.name)
            step()

        owned.opt.step = checked

    watch(method.opt_g, ["generator"])
    watch(method.opt_s, ["student"])
    watch(method.learners[1], ["adapters"])
    go(method, engine, 4)
    assert seen == ["generator", *["student", "adapters"] * 2] * 2


def test_an_adversarial_step_of_the_generator_changes_neither_teacher_nor_students_weights():
    """Bit for bit; the student's running statistics are its mode's affair."""
    method, engine = made(pre=0.0, ramp=0.0, w_adv_maps=1.0)
    networks = [engine.given.teacher, method.network]
    before = [copy.deepcopy(list(network.parameters())) for network in networks]
    generator = copy.deepcopy(list(method.generator.module.parameters()))
    engine.begin(3, 0.5)
    z, y = batch(method, engine)
    engine.minimise(method.loss_g, method.opt_g, inputs=(z, y, z.new_ones(())))
    assert engine.read()["generator/adversarial"] < 0
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), old, strict=True))
    moved = zip(method.generator.module.parameters(), generator, strict=True)
    assert not all(torch.equal(a, b) for a, b in moved)


def test_the_schedule_of_larger_images_falls_at_thirds():
    method, engine = made(schedule="thirds")
    lrs = []
    for progress in (0.0, 0.32, 0.34, 0.65, 0.67):
        method.opt_s.set_lr(progress)
        lrs.append(engine.owned["student"].opt.param_groups[0]["lr"] / method.lr_s)
    assert lrs == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("settings", [{"w_adv": 1.0}, {"w_adv": 0.0, "w_adv_maps": 1.0}])
def test_the_adversarial_terms_pass_through_both_networks(settings):
    method, engine = made(w_cls=0.0, w_bn=0.0, pre=0.0, **settings)
    z, y = batch(method, engine)
    images = method.generator(z, y).detach().requires_grad_()
    method.generator = lambda z, y: images
    gradients = []
    for held in ((), ("teacher",), ("student",)):  # what if one were a constant
        teacher, student = method.teacher, method.student
        if "teacher" in held:
            method.teacher = lambda x, stats, t=teacher: t(x.detach(), stats=stats)
        if "student" in held:
            method.student = lambda x, s=student: s(x.detach())
        terms, _ = method.loss_g(z, y, z.new_ones(()))
        gradients.append(torch.autograd.grad(sum(terms.values()), images)[0])
        method.teacher, method.student = teacher, student
    whole, without_teacher, without_student = gradients
    assert torch.allclose(whole, without_teacher + without_student, atol=1e-6)
    assert without_teacher.abs().sum() > 0
    assert without_student.abs().sum() > 0


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_students_mode_in_the_generators_step(mode):
    method, engine = made(student_mode=mode, pre=0.0)
    seen, loss_g = [], method.loss_g
    method.loss_g = lambda *a: (seen.append(method.network.training), loss_g(*a))[1]
    go(method, engine, 2)
    assert seen == [mode == "train"]
    assert method.network.training


# ---------------------------------------------------------------- the terms


def test_the_ramp_grows_linearly_and_stays():
    method, engine = made(ramp=0.5, w_adv=2.0, w_adv_maps=1.0, pre=0.0, student_steps=1)
    seen, loss_g = [], method.loss_g
    method.loss_g = lambda z, y, ramp: (seen.append(ramp.item()), loss_g(z, y, ramp))[1]
    go(method, engine, 8)
    assert seen == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    z, y = batch(method, engine)
    with torch.no_grad():
        none, half, full = (loss_g(z, y, torch.tensor(r))[0] for r in (0.0, 0.5, 1.0))
    for term in ("adversarial", "adversarial_maps"):
        assert none[term] == 0
        assert full[term] < 0
        assert half[term].item() == pytest.approx(full[term].item() / 2)
    seen.clear()
    method, engine = made(ramp=0.0, pre=0.0)
    loss = method.loss_g
    method.loss_g = lambda z, y, ramp: (seen.append(ramp.item()), loss(z, y, ramp))[1]
    go(method, engine, 2)
    assert seen == [1.0]


def test_the_terms_are_those_of_the_docstring():
    method, engine = made(w_cls=2.0, w_adv=3.0, w_bn=0.5, w_at=7.0, w_lab=0.0, tau=2.0)
    z, y = batch(method, engine)
    method.student.eval()
    with torch.no_grad():
        terms, (images, logits) = method.loss_g(z, y, z.new_ones(()))
        assert torch.equal(images, method.generator(z, y))
        t, s = method.teacher(images, stats=True), method.student(images)
        assert terms["class"].item() == pytest.approx(2 * F.cross_entropy(t.logits, y).item(), rel=1e-5)
        assert terms["adversarial"].item() == pytest.approx(-3 * (t.logits - s.logits).abs().mean().item(), rel=1e-5)
        squares = [(m.mean - m.running_mean).square().sum() + (m.var - m.running_var).square().sum() for m in t.moments]
        assert terms["bn"].item() == pytest.approx(0.5 * (sum(squares) / len(squares)).item(), rel=1e-5)
        assert torch.equal(logits, t.logits)
        terms, kept = method.loss_s(images, y)
        assert terms["kd"].item() == pytest.approx(kl(s.logits, t.logits, 2.0).item(), rel=1e-5)
        names = ["blocks.0", "blocks.1"]
        distance = attention_distance([s.taps[n] for n in names], [t.taps[n] for n in names])
        assert terms["attention"].item() == pytest.approx(7 * distance.item(), rel=1e-5)
        assert kept["kept"].item() == (t.logits.argmax(1) == y).float().mean().item()


def test_the_class_term_stops_where_it_is_satisfied():
    method, engine = made(w_cls=2.0, label_floor=50.0, w_bn=0.0, w_adv=0.0, pre=0.0)
    terms, _ = method.loss_g(*batch(method, engine))
    assert terms["class"].item() == 100  # every image is below so high a floor
    terms["class"].backward()
    assert all(p.grad is None or not p.grad.any() for p in method.generator.module.parameters())


BASE_G, BASE_S = {"class", "bn", "adversarial"}, {"kd", "label", "kept", "attention"}


@pytest.mark.parametrize(
    ("settings", "generator", "student"),
    [
        ({}, BASE_G, BASE_S),
        ({"w_at": 0.0}, BASE_G, BASE_S - {"attention"}),
        ({"w_lab": 0.0}, BASE_G, BASE_S - {"label"}),
        ({"w_adv": 0.0}, BASE_G - {"adversarial"}, BASE_S),
        ({"w_bn": 0.0}, BASE_G - {"bn"}, BASE_S),
        ({"w_cls": 0.0}, BASE_G - {"class"}, BASE_S),
        ({"condition": "none"}, BASE_G - {"class"}, BASE_S - {"label", "kept"}),
        ({"feat": "hint"}, BASE_G, BASE_S - {"attention"} | {"hint"}),
        ({"w_adv_maps": 1.0, "w_act": 1.0}, BASE_G | {"adversarial_maps", "activation"}, BASE_S),
    ],
)
def test_each_switch_takes_its_term_away(settings, generator, student):
    method, engine = made(pre=0.0, **settings)
    names = go(method, engine, 2)["distil"].keys()
    assert {n.split("/")[1] for n in names if n.startswith("generator/")} == generator
    assert {n.split("/")[1] for n in names if n.startswith("student/")} == student


def test_what_is_switched_off_leaves_no_trace():
    """Weight zero is the same run, to the bit, as a network that has no stages to compare."""
    results = []
    for hidden in (False, True):
        given = pair()
        if hidden:
            del given.teacher.module.taps
        method, engine = made(given, w_at=0.0)
        go(method, engine, 4)
        assert method.teacher.module.taps == method.student.module.taps == ()
        results.append(frozen_copy(method.network))
    assert all(torch.equal(v, results[1][k]) for k, v in results[0].items())


# ---------------------------------------------------------------- the mask


def test_the_mask_takes_the_mean_over_kept_images():
    s, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    kept = torch.tensor([1.0, 0, 0, 1, 0, 1])
    alone = torch.Tensor.clone  # the mean over one rank
    masked = masked_cross_entropy(s, y, kept, alone)
    assert torch.allclose(masked, F.cross_entropy(s[[0, 3, 5]], y[[0, 3, 5]]))
    assert torch.equal(masked_cross_entropy(s, y, None, alone), F.cross_entropy(s, y))
    assert torch.allclose(masked_cross_entropy(s, y, kept, lambda n: 2 * n), masked / 2)  # by the mean of all ranks
    changed = s.clone()
    changed[1] += torch.tensor([9.0, -9, 0, 0])
    assert torch.equal(masked_cross_entropy(changed, y, kept, alone), masked)


def test_no_reliable_image_at_all_is_zero_and_not_nan():
    method, engine = made(w_at=0.0)
    z, y = batch(method, engine)
    images = engine.make(method.generator, z, y)
    wrong = (method.teacher(images).logits.argmax(1) + 1) % 4
    terms, kept = method.loss_s(images, wrong)
    assert terms["label"].item() == kept["kept"].item() == 0
    method.student.zero_grad()
    terms["label"].backward()
    grads = [p.grad for p in method.network.parameters()]
    assert all(g is not None and torch.equal(g, torch.zeros_like(g)) for g in grads)
    engine.minimise(method.loss_s, *method.learners, inputs=(images, wrong))
    assert all(p.isfinite().all() for p in method.network.parameters())
    unmasked, _ = made(mask=False, w_at=0.0)
    assert unmasked.loss_s(images, wrong)[0]["label"] > 0


# ---------------------------------------------------------------- the condition


def decisive(teacher):
    """An untrained network says nearly the same of all images: centre and spread what it says of noise."""
    linear = teacher.module.linear
    with torch.no_grad():
        linear.weight *= 20
        noise = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        linear.bias -= teacher(noise).mean(0)


@pytest.mark.parametrize("condition", ["concat", "multiply", "ccbn"])
def test_the_generator_obeys_its_label(condition):
    given = pair()
    decisive(given.teacher)
    method, engine = made(
        given, mode="two_stage", condition=condition, w_bn=0.0, batch_size=32, lr_g=1e-2, schedule="constant", w_at=0.0
    )
    one = method.phases(60)[0]
    for i in range(one.iterations):
        engine.begin(i, i / one.iterations)
        one.step(engine)
    engine.begin(1000, 0.0)
    images, y = method.preset(engine)
    assert (method.teacher(images).logits.argmax(1) == y).float().mean() > 0.5  # chance: 0.25
    z, _ = method.images.draw(engine)
    assert not torch.allclose(method.generator(z, y), method.generator(z, (y + 1) % 4), atol=1e-3)


# ---------------------------------------------------------------- the layers compared


def test_layers_are_paired_from_the_last():
    method, _ = made(pair((6, 8, 10), (3, 4)))
    assert method.maps.pairs == [("blocks.1", "blocks.0"), ("blocks.2", "blocks.1")]
    method, _ = made(pair((6, 8), (3, 4)), teacher_taps=["blocks.0"], student_taps=["blocks.1.0"])
    assert method.maps.pairs == [("blocks.0", "blocks.1.0")]
    assert method.teacher.module.taps == ("blocks.0",)


def test_maps_of_other_sizes_are_compared():
    method, engine = made(pair((6, 8, 10), (3, 4)), pre=0.0)
    value = go(method, engine, 2)["distil"]["student/attention"]
    assert 0 < value < 2 * 2**0.5


def test_a_stage_of_one_position_has_no_attention():
    given = []
    for seed, width in ((0, 1.0), (1, 0.5)):
        torch.manual_seed(seed)
        module = builtin.build("lenet5_bn", num_classes=4, channels=1, image_size=32, width=width)
        given.append(Network(module, num_classes=4, image_size=32, channels=1))
    method, _ = made(make_given(*given))
    assert [t for t, _ in method.maps.pairs] == ["conv1", "conv2"]
    method, _ = made(make_given(*copy.deepcopy(given)), feat="hint")
    assert [t for t, _ in method.maps.pairs] == ["conv1", "conv2", "conv3"]
    assert [layer[0].weight.shape[:2] for layer in method.maps.adapters.module.layers] == [(6, 3), (16, 8), (120, 60)]
    with pytest.raises(InputError, match="more than one position"):
        made(make_given(*copy.deepcopy(given)), teacher_taps=["conv3"])


def test_looking_at_the_shapes_leaves_the_student_as_it_was():
    given = pair()
    student = frozen_copy(given.student)
    method, engine = made(given)
    assert unchanged(student, method.network)
    assert method.network.training
    assert engine.drawn == 0


def test_a_network_without_declared_stages():
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 4)
    )
    teacher = Network(body, num_classes=4, image_size=8, channels=1)
    with pytest.raises(InputError, match=r"Sequential does not say .* teacher_taps.*layers are 0, 1, 2, 3, 4"):
        made(make_given(teacher, tiny_network((3, 4), 1)))
    method, engine = made(make_given(teacher, tiny_network((3, 4), 1)), teacher_taps=["2"])
    assert method.maps.pairs == [("2", "blocks.1")]
    go(method, engine, 2)
    with pytest.raises(InputError, match="layer 3 of Sequential gives 2 dimensions"):
        made(make_given(copy.deepcopy(teacher), tiny_network((3, 4), 1)), teacher_taps=["3"])


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_an_unknown_layer_is_an_error_that_names_those_there_are(role):
    with pytest.raises(InputError, match=r"convnet has no layer 'nope'.*layers are blocks, blocks\.0") as error:
        made(**{f"{role}_taps": ["nope"]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings", [{}, {"condition": "none", "w_cls": 1.0}, {"mode": "two_stage"}, {"mode": "two_stage", "pre": 0.0}]
)
def test_a_generator_with_nothing_to_learn_before_the_student(settings):
    with pytest.raises(InputError, match="nothing to learn before the student's steps: give one of them a weight"):
        made(**{"w_cls": 0.0, "w_bn": 0.0, "w_act": 0.0, "w_adv": 1.0, **settings})
    if "mode" not in settings:
        go(*made(**{"w_cls": 0.0, "w_bn": 0.0, "w_act": 0.0, "w_adv": 1.0, "pre": 0.0, **settings}), 2)


@pytest.mark.parametrize("wrong", [{"pre": 1.0}, {"mode": "two_stage", "stage_one": 1.5}])
def test_shares_that_leave_nothing(wrong):
    with pytest.raises(InputError, match="must be at least 0 and below 1"):
        build_method({"name": "cgdd", **wrong})


# ---------------------------------------------------------------- the rest


def test_the_students_images_are_shifted_and_mirrored_on_request():
    fed = []
    for settings in ({}, {"crop": 1, "flip": True}):
        method, engine = made(pre=0.0, student_steps=1, **settings)
        loss_s = method.loss_s
        method.loss_s = lambda images, y, loss=loss_s: (fed.append(images), loss(images, y))[1]
        go(method, engine, 1)
    same = (fed[0] == fed[1]).flatten(1).all(1)
    assert same.sum() < 6  # 1 in 18 stays as it was
    assert fed[1].shape == fed[0].shape


def test_reuse_wants_a_generator_step():
    with pytest.raises(InputError, match="generator_steps is 0"):
        made(reuse=True, generator_steps=0)


def test_reuse_wants_both_in_turns():
    with pytest.raises(InputError, match="in turns: leave it out, or take mode alternating"):
        made(reuse=True, mode="two_stage")


def test_the_generators_head_and_momentum_are_as_asked():
    method, _ = made(head="linear", beta1=0.5)
    assert method.generator.module.head == "linear"
    assert method.opt_g.opt.param_groups[0]["betas"] == (0.5, 0.999)


def test_the_generator_for_large_images_has_one_head():
    with pytest.raises(InputError, match="head is linear"):
        made(size="large", head="linear")


def test_reuse_asks_generator_and_teacher_once_an_iteration():
    method, engine = made(reuse=True, student_steps=4, bank=64, pre=0.0, w_at=0.0)
    asked, fed = [], []
    method.teacher.module.network.register_forward_hook(lambda *_: asked.append("teacher"))
    method.generator.module.register_forward_hook(lambda *_: asked.append("generator"))
    loss_s = method.loss_s
    method.loss_s = lambda images, y, t=None: (fed.append((images, y, t)), loss_s(images, y, t))[1]
    go(method, engine, 8)
    assert sorted(asked) == ["generator", "generator", "teacher", "teacher"]
    assert method.opt_s.steps == 8
    assert method.stored.added == 32
    stored = list(zip(method.stored.draw(torch.arange(32)).images, method.stored.labels[:32], strict=True))
    with torch.no_grad():
        for images, y, t in fed:
            assert not t.requires_grad
            assert torch.allclose(method.teacher(images).logits, t, atol=0.05)  # rounded to fewer bits
            for image, label in zip(images, y, strict=True):
                assert any(
                    label == known and torch.allclose(image, old, atol=(0.5 + method.stored.margin) / 255 + 1e-6)
                    for old, known in stored
                )


@pytest.mark.parametrize("settings", [{"w_at": 1.0}, {"w_at": 0.0, "crop": 1}, {"w_at": 0.0, "flip": True}])
def test_reuse_asks_the_teacher_again_where_logits_are_not_enough(settings):
    method, engine = made(reuse=True, student_steps=3, bank=64, pre=0.0, **settings)
    fed = []
    loss_s = method.loss_s
    method.loss_s = lambda images, y, t=None: (fed.append(t), loss_s(images, y, t))[1]
    go(method, engine, 3)
    assert fed == [None] * 3


def test_what_it_needs():
    assert CGDD().needed == {"bn", "input_gradient", "sides"}
    assert CGDD(w_bn=0.0).needed == {"input_gradient", "sides"}
    assert CGDD(w_act=1.0).needed == {"bn", "input_gradient", "linear_head", "sides"}
    assert CGDD.outside == ()


def test_large_images_have_their_generator():
    torch.manual_seed(0)
    networks = [tiny_network(widths, 0, image_size=32) for widths in ((6, 8), (3, 4))]
    method, engine = made(make_given(*networks), size="large", pre=0.0)
    go(method, engine, 2)
    images = method.synthesise(engine, 10)
    assert images.shape == (10, 1, 32, 32)
    assert 0 <= images.min() <= images.max() <= 1
