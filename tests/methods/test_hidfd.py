"""HiDFD: what each part has to do, and that the released code's behaviour can be had by switches."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from helpers.logs import Silent
from helpers.networks import make_given, tiny_network

from dreamstill.data.collected import Ranking, ranked
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods import check_contract
from dreamstill.methods.controls.collected_only import CollectedOnly
from dreamstill.methods.hidfd import HiDFD
from dreamstill.methods.released.hidfd import ReleasedHiDFD
from dreamstill.networks import builtin
from dreamstill.networks.export_onnx import export_onnx
from dreamstill.networks.load import load_network, resolve, save_network
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.runs import requirements
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.loop import Cadence, run
from dreamstill.runs.settings import build_method, method_spec

pytestmark = pytest.mark.filterwarnings("ignore:the teacher takes none")  # noise, which it takes for one class
SMALL = {"batch_size": 16, "gan_batch": 16, "nz": 8, "width": 2, "bank": 32, "crop": 1, "update_every": 2}


def images(n=50, seed=1):
    return torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def made(cls=HiDFD, teacher=None, student=None, collected=None, steps=4, **settings):
    given = make_given(
        teacher or tiny_network((6, 8), 0), student or tiny_network((3, 4), 1),
        collected=images() if collected is None else collected,
    )  # fmt: skip
    engine = Engine(given, device="cpu", steps=steps)
    known = {k: v for k, v in SMALL.items() if k in cls.__dataclass_fields__}
    method = cls.variant_of(settings)(**{**known, **settings})
    method.check(engine.task.name)
    method.setup(engine)
    return method, engine


def gan(method, engine, iterations, total=100):
    for i in range(iterations):
        engine.begin(i, i / total)
        method.gan_step(engine)


def everything(method, engine):
    at = 0
    for phase in method.phases(engine.steps):
        for i in range(phase.iterations):
            engine.begin(at, i / phase.iterations)
            phase.step(engine)
            at += 1


def state(module):
    return copy.deepcopy(module.state_dict())


def moved(module, before):
    return {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}


# ---------------------------------------------------------------- defects of the released code, repaired


def test_the_feature_head_learns_and_in_the_released_code_does_not():
    for gradient in (True, False):
        method, engine = made(feature_gradient=gradient)
        head = engine.modules["discriminator"].features
        before = state(head)
        gan(method, engine, 1)
        learnt = {k for k in moved(head, before) if k.endswith("original") or k.endswith("bias")}
        assert bool(learnt) is gradient
        assert ("discriminator/transfer" in engine.read()) is True


def test_frequencies_are_updated_and_in_the_released_code_are_not():
    """Made images of one class only; the weights of the others rise."""
    method, engine = made()
    one = torch.eye(4)[[2] * 16] * 9
    for i in range(20):
        method.frequencies.count(one, now=i % 2 == 1)
    assert method.frequencies.weights.argmin() == 2
    assert (method.frequencies.weights[[0, 1, 3]] > 1.3).all()
    assert method.frequencies.weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert method.frequencies.often[2] == pytest.approx(32, abs=1)  # two batches of 16 between updates
    released, engine = made(update_every=0)
    gan(released, engine, 5)
    assert torch.equal(released.frequencies.weights, torch.ones(4))


def test_the_first_update_of_the_frequencies():
    method, _ = made()
    method.frequencies.count(torch.eye(4)[[0] * 8 + [1] * 8], now=True)
    assert method.frequencies.often.tolist() == [0.5 * 50 + 0.5 * (512 + n) for n in (8, 8, 0, 0)]
    assert method.frequencies.seen.tolist() == [0] * 4


def test_the_teacher_is_shown_its_own_statistics():
    """Its answers through the GAN's pipeline are those on the images themselves."""
    pixels, inside = to_float(images()), []
    for released in (False, True):
        method, engine = made(released_pixels=released)
        network = engine.given.teacher
        hook = network.module.register_forward_pre_hook(lambda m, i: inside.append(i[0]))
        method.teacher(pixels)
        method.learner.teacher(pixels)
        hook.remove()
    own = (pixels - network.mean) / network.std
    for seen, expected in zip(inside, (own, own, 2 * pixels - 1, own), strict=True):
        assert torch.allclose(seen, expected, atol=1e-5)


def test_stretching_and_which_generator_makes_the_images():
    method, engine = made(stretch=True)
    gan(method, engine, 2)
    fresh = method.preset(engine)[0]
    assert torch.allclose(fresh.amin((1, 2, 3)), torch.zeros(16))
    assert torch.allclose(fresh.amax((1, 2, 3)), torch.ones(16))
    found = []
    for source in ("ema", "raw"):
        method, engine = made(sample_from=source, ema_start=0.0, ema=1.0)
        gan(method, engine, 3)
        engine.begin(3, 0.0)
        found.append(method.preset(engine)[0])
        assert method.generator.module.training
    assert not torch.allclose(*found)


def test_other_statistics_while_the_student_learns():
    teacher = tiny_network((6, 8), 0)
    method, engine = made(teacher=teacher, student_mean=[0.5], student_std=[0.2], crop=0)
    inside = []
    method.network = method.deliver().module.register_forward_pre_hook(lambda m, i: inside.append(i[0]))
    pixels = to_float(images(16))
    engine.begin(0, 0.0)
    method.learner.learn(engine, pixels)
    assert torch.allclose(inside[0], (pixels - 0.5) / 0.2, atol=1e-5)
    with pytest.raises(InputError, match="give both"):
        made(student_mean=[0.5])


# ---------------------------------------------------------------- who learns when


def test_what_moves_in_each_phase():
    method, engine = made()
    gan_parts, student = ("generator", "discriminator", "average"), engine.modules["student"]
    teacher, before = state(engine.given.teacher), {k: state(m) for k, m in engine.modules.items()}
    gan(method, engine, 2)
    assert all(moved(engine.modules[k], before[k]) for k in gan_parts)
    assert not moved(student, before["student"])
    before = {k: state(m) for k, m in engine.modules.items()}
    engine.begin(2, 0.0)
    method.making_step(engine)
    engine.begin(3, 0.0)
    method.step(engine)
    assert not any(moved(engine.modules[k], before[k]) for k in gan_parts)
    changed = moved(student, before["student"])
    assert {k.split(".")[1] for k in changed} == {"base", "projector"}
    assert not moved(engine.given.teacher, teacher)
    head = engine.given.teacher.module.linear
    assert torch.equal(student.module.head.weight, head.weight)
    assert not student.module.head.weight.requires_grad


def test_the_discriminators_step_leaves_the_generator_and_the_other_way_round():
    method, engine = made()
    engine.begin(0, 0.0)
    z, c = engine.noise(16, 8), engine.labels(16)
    parameters = {k: dict(m.named_parameters()) for k, m in engine.modules.items()}
    before = {k: {n: p.clone() for n, p in ps.items()} for k, ps in parameters.items()}

    def learnt(name):
        return any(not torch.equal(p, before[name][n]) for n, p in parameters[name].items())

    engine.minimise(method.loss_g, method.opt_g, inputs=(z, c, method.frequencies.weights))
    assert learnt("generator")
    assert not learnt("discriminator")
    before["generator"] = {n: p.clone() for n, p in parameters["generator"].items()}
    real = to_float(images(16))
    engine.minimise(method.loss_d, method.opt_d, inputs=(real, c, real.flip(0), c))
    assert learnt("discriminator")
    assert not learnt("generator")


def test_the_average_is_a_copy_at_first_and_then_lags():
    method, engine = made(ema=1.0, ema_start=0.5)
    live, average = (engine.modules[k] for k in ("generator", "average"))
    gan(method, engine, 2, total=4)
    assert all(torch.equal(v, live.state_dict()[k]) for k, v in average.state_dict().items())
    engine.begin(2, 0.5)
    method.gan_step(engine)
    assert any(not torch.equal(v, live.state_dict()[k]) for k, v in average.state_dict().items())
    assert not method.average.network.training


# ---------------------------------------------------------------- ablations


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        ({"w_transfer": 0.0}, {"discriminator/transfer"}),
        ({"w_blend": 0.0}, {"discriminator/blend"}),
        ({"w_transfer": 0.0, "w_blend": 0.0}, {"discriminator/transfer", "discriminator/blend"}),
        ({"w_smooth": 0.0}, {"generator/smooth"}),
        ({"w_class": 0.0}, {"discriminator/class", "generator/class"}),
        ({}, set()),
    ],
)
def test_weights_leave_terms_out(settings, absent):
    method, engine = made(**settings)
    gan(method, engine, 1)
    every = {f"discriminator/{t}" for t in ("hinge", "class", "transfer", "blend")}
    every |= {f"generator/{t}" for t in ("hinge", "class", "smooth")}
    assert every - {k for k in engine.read() if not k.startswith("lr/")} == absent


def test_the_terms_of_the_discriminator_are_those_written():
    method, engine = made(w_transfer=0.3, w_blend=0.7)
    engine.begin(0, 0.0)
    x, xs = to_float(images(16)), to_float(images(16, seed=4))
    y, c = engine.labels(16), engine.labels(16)
    method.discriminator.eval()
    with torch.no_grad():
        terms = method.loss_d(x, y, xs, c)
        t_x, t_xs = (method.teacher(i).taps["linear:input"] for i in (x, xs))
        r_x, r_xs = (method.discriminator(i).features for i in (x, xs))
    transfer = (t_x - r_x).norm(dim=1).mean() + (t_xs - r_xs).norm(dim=1).mean()
    blend = (t_x - r_xs).norm(dim=1).mean() + (t_xs - r_x).norm(dim=1).mean()
    assert terms["transfer"].item() == pytest.approx(0.3 * transfer.item(), rel=1e-4)
    assert terms["blend"].item() == pytest.approx(0.7 * blend.item(), rel=1e-4)


@pytest.mark.parametrize(("inflation", "copies"), [(None, 2), (1, 1), (5, 5), (0, 0)])
def test_inflation(inflation, copies):
    """Over one epoch every collected image comes ``copies`` times and every made one once."""
    collected = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1).expand(16, 1, 8, 8)
    method, engine = made(collected=collected, inflation=inflation, keep=16)
    method.hybrid.made.add(torch.full((32, 1, 8, 8), 100 / 255) + torch.arange(32).view(-1, 1, 1, 1) / 255)
    total = copies * 16 + 32
    seen = []
    for i in range(total // 16):
        engine.begin(i, 0.0)
        seen.append((method.hybrid.batch(engine, method.batch_size)[:, 0, 0, 0] * 255).round().long())
    counts = torch.cat(seen).bincount(minlength=132)
    assert (counts[:16] == copies).all()
    assert (counts[100:] == 1).all()


def test_phases():
    method, _ = made()
    assert [(p.name, p.iterations) for p in method.phases(40)] == [("gan", 40), ("synthesise", 2), ("distil", 40)]
    method, _ = made(gan=0.25)
    assert method.phases(40)[0].iterations == 10
    method, _ = made(gan_iterations=7, bank=33)
    assert [p.iterations for p in method.phases(40)] == [7, 3, 40]


# ---------------------------------------------------------------- ranking and pseudo-labels


def test_ranking():
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 3.0], [2.0, 0.0, 0.0]])
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)

    def answer(some):
        return logits[(some[:, 0, 0, 0] * 255).round().long()]

    order, labels, sure = ranked(answer, pixels, "confidence", 0.0, 10)
    assert torch.equal(sure, logits.softmax(1).amax(1)[order])
    assert order.tolist() == [2, 0, 3, 4, 1]
    assert labels.tolist() == [0, 0, 2, 0, 1]
    assert ranked(answer, pixels, "confidence", 0.9, 2)[0].tolist() == [2, 0]
    assert ranked(answer, pixels, "confidence", 0.9, 9)[0].tolist() == [2, 0, 3]
    assert ranked(answer, pixels, "class", 0.0, 3)[0].tolist() == [2, 3, 1]
    assert ranked(answer, pixels, "class", 0.0, 5)[0].tolist() == [2, 3, 1, 0, 4]
    assert sorted(ranked(answer, pixels, "random", 0.0, 5)[0].tolist()) == list(range(5))


def test_the_pseudo_labels_are_the_teachers():
    method, engine = made(keep=20)
    with torch.no_grad():
        theirs = engine.given.teacher(to_float(images()[method.hybrid.chosen])).argmax(1)
    assert torch.equal(method.hybrid.labels, theirs)
    assert len(method.hybrid.chosen) == 20


# ---------------------------------------------------------------- the student on its teacher's classifier


@pytest.mark.parametrize("align", ["map", "pooled"])
def test_a_perfect_projection_gives_the_teachers_logits(align):
    """The alignment reaches zero exactly where the student answers as the teacher does."""
    teacher = tiny_network((6, 8), 0)
    method, _ = made(teacher=teacher, align=align)
    network = method.deliver()
    kwargs = network.kwargs
    assert (kwargs["features"], kwargs["size"]) == (8, [4, 4] if align == "map" else [1, 1])
    assert kwargs["layer"] == ("blocks.1" if align == "map" else None)
    x = to_float(images(5))
    seen = {}
    teacher.module.blocks[1].register_forward_hook(lambda m, i, o: seen.update(map=o))
    with torch.no_grad():
        t = teacher(x)
        network.module.projector = torch.nn.Identity()
        network.module._map = lambda _: seen["map"]
        assert torch.allclose(network(x), t, atol=1e-5)


def test_the_projectors_parameters_at_the_released_widths():
    from dreamstill.networks.reused_classifier import SharedClassifier

    module = SharedClassifier(
        torch.nn.Linear(2, 2), num_classes=10, layer=None, rectify=False, inputs=512, features=512, size=(4, 4),
        positive=True, bias=True,
    )  # fmt: skip
    assert sum(p.numel() for p in module.projector.parameters()) == 512 * 512 + 256 * 256 * 9 + 2 * 1024


def networks():
    """Teacher and student whose last maps differ in size, are rectified outside a layer, or are not there at all."""

    def built(name, image_size, **kwargs):
        torch.manual_seed(0)
        module = builtin.build(name, num_classes=4, channels=1, image_size=image_size, **kwargs)
        return Network(module, num_classes=4, image_size=image_size, channels=1, name=name, kwargs=kwargs)

    return {
        "smaller map": (built("convnet", 16, widths=[4, 6]), built("convnet", 16, widths=[3, 4, 5])),
        "larger map": (built("convnet", 16, widths=[4, 4, 6]), built("convnet", 16, widths=[3, 4])),
        "wide": (built("wrn_10_1", 16), built("wrn_10_1", 16)),
        "lenet": (built("lenet5_bn", 32), built("lenet5_bn_half", 32)),
        "mixed": (built("wrn_10_1", 32), built("lenet5_bn_half", 32)),
    }


@pytest.mark.parametrize("case", ["smaller map", "larger map", "wide", "lenet", "mixed"])
def test_saved_loaded_and_exported(case, tmp_path):
    teacher, student = networks()[case]
    side = teacher.image_size[0]
    collected = torch.randint(256, (20, 1, side, side), dtype=torch.uint8)
    method, engine = made(CollectedOnly, teacher, student, collected)
    for i in range(2):
        engine.begin(i, 0.0)
        method.step(engine)
    network = method.deliver().eval()
    assert network.name == "shared_classifier"
    assert network.kwargs["base"] == student.name
    x = torch.rand(3, 1, side, side, dtype=torch.float64)
    save_network(tmp_path / "student.safetensors", network)
    again = load_network(tmp_path / "student.safetensors")
    # In float64: another memory format is another order of the sums.
    before, read, copied = (copy.deepcopy(n).double() for n in (network, again, copy.deepcopy(again)))
    with torch.no_grad():
        assert torch.allclose(read(x), before(x), rtol=1e-9)
        assert torch.allclose(copied(x), read(x), rtol=1e-9)
    assert again.description() == network.description()
    if case in ("larger map", "mixed"):  # each export takes seconds
        assert export_onnx(again, tmp_path / "student.onnx")["max_difference"] < 1e-4


def test_a_network_of_ones_own_is_loaded_into_its_kind(tmp_path):
    student = tiny_network((3, 4), 1)
    own = Network(copy.deepcopy(student.module), num_classes=4, image_size=8, channels=1, mean=[0.3], std=[0.4])
    method, _ = made(CollectedOnly, student=own)
    save_network(tmp_path / "s.safetensors", method.deliver())
    with pytest.raises(InputError, match="no built-in network 'ConvNet'"):
        load_network(tmp_path / "s.safetensors")
    again = load_network(tmp_path / "s.safetensors", student.module)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        # In another memory format, so to the rounding of float64.
        assert torch.allclose(again.double()(x), method.deliver().eval().double()(x), rtol=1e-9)


def test_a_file_may_not_choose_code_by_the_base_either(tmp_path):
    student = tiny_network((3, 4), 1)
    student.name = "os:system"
    method, _ = made(CollectedOnly, student=student)
    save_network(tmp_path / "s.safetensors", method.deliver())
    with pytest.raises(InputError, match=r"os:system.*--trust-code"):
        load_network(tmp_path / "s.safetensors")


def test_a_student_of_this_kind_can_be_a_student_again():
    first, _ = made(CollectedOnly)
    again, engine = made(CollectedOnly, student=first.deliver())
    engine.begin(0, 0.0)
    again.step(engine)
    assert again.deliver().kwargs["base"] == "shared_classifier"
    assert again.deliver()(torch.rand(2, 1, 8, 8)).shape == (2, 4)


def test_shared_classifier_is_no_name_to_choose():
    with pytest.raises(InputError, match="base"):
        resolve("shared_classifier", None, num_classes=4, image_size=8, channels=1, mean=[0.0], std=[1.0])


def test_networks_that_end_otherwise():
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 8), torch.nn.Flatten())
    bare = Network(module, num_classes=4, image_size=8, channels=1)
    with pytest.raises(InputError, match=r"does not end in one nn\.Linear"):
        made(student=bare)


# ---------------------------------------------------------------- what was given


def test_nothing_collected():
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    with pytest.raises(InputError, match="--collected"):
        HiDFD(**SMALL).setup(Engine(given, device="cpu"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gan_batch": 64}, "50 of 50 collected images are kept"),
        ({"keep": 10}, "10 of 50"),
        ({"min_confidence": 1.1}, "0 of 50"),
        ({"keep": 3, "batch_size": 2, "gan_batch": 2}, "3 of 50 collected images are kept for 4 classes"),
        ({"inflation": 0, "bank": 16, "batch_size": 32}, "16 made images alone, and its batch_size is 32"),
        ({"select": "flexible"}, "give the probability to be lowered"),
    ],
)
def test_impossible_settings(settings, said):
    with pytest.raises(InputError, match=said):
        made(**settings)


@pytest.mark.parametrize(
    "wrong", [{"ema": 1.5}, {"frequency_decay": -0.1}, {"discriminator_steps": 0}, {"gan_batch": 0}]
)
def test_numbers_out_of_their_range(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=f"{name} is {value}: it must be at least"):
        build_method({"name": "hidfd", **wrong})


def test_a_released_defect_is_a_class_of_its_own():
    _, engine = made()
    for defect in ({"released_pixels": True}, {"feature_gradient": False}, {"stretch": True}):
        built = build_method({"name": "hidfd", **defect})
        assert type(built) is ReleasedHiDFD
        assert method_spec(built) == {**method_spec(HiDFD()), **defect}
        assert type(build_method(HiDFD(**defect))) is ReleasedHiDFD
        with pytest.raises(InputError, match="HiDFD ask for ReleasedHiDFD"):
            check_contract(HiDFD(**defect), engine, 4)
    assert type(build_method({"name": "hidfd", "stretch": False, "update_every": 0})) is HiDFD


def test_frequencies_are_updated_every_so_often():
    method, engine = made(update_every=3)
    for i in range(3):
        assert torch.equal(method.frequencies.weights, torch.ones(4))
        engine.begin(i, 0.0)
        method.gan_step(engine)
    assert not torch.equal(method.frequencies.often, torch.full((4,), 50.0))
    assert method.frequencies.seen.tolist() == [0] * 4


def test_smoothing_alone_sends_a_gradient_through_the_teacher():
    assert "input_gradient" in HiDFD().needed
    assert "input_gradient" not in HiDFD(w_smooth=0.0).needed
    assert "collected" in HiDFD(w_smooth=0.0).needed


# ---------------------------------------------------------------- the whole


@pytest.mark.slow
@pytest.mark.parametrize("stop", [5, 9])  # in the phase that makes images, and in the student's
def test_a_run_stopped_in_the_later_phases_has_the_same_bits(stop, tmp_path):
    class Halt(Exception):
        pass

    class Halting(Silent):
        def progress(self, done, values):
            if done == stop:
                raise Halt

    def go(folder, log, resume=False, every=100):
        method, engine = made(steps=6, gan_iterations=4, bank=32)
        outcome = run(method, engine, Checkpoints(folder), log, Cadence(log=1, checkpoint_steps=every), resume)
        return outcome, engine

    whole, engine = go(tmp_path / "whole", Silent())
    with pytest.raises(Halt):
        go(tmp_path / "cut", Halting(), every=1)
    again, other = go(tmp_path / "cut", Silent(), resume=True)
    ours, theirs = whole.ema.network.state_dict(), again.ema.network.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    for name, module in engine.modules.items():
        assert all(torch.equal(v, other.modules[name].state_dict()[k]) for k, v in module.state_dict().items())
    assert torch.equal(engine.banks["made"].pixels, other.banks["made"].pixels)
    assert torch.equal(engine.buffers["often"], other.buffers["often"])


@pytest.mark.slow
def test_the_gan_learns_the_look_of_two_classes():
    """Dark and bright images: what the averaged generator makes for a class is of that brightness to the teacher."""
    torch.manual_seed(0)
    level = torch.tensor([40.0, 210.0])[torch.arange(256) % 2].view(-1, 1, 1, 1)
    collected = (level + 20 * torch.randn(256, 1, 8, 8)).clamp(0, 255).to(torch.uint8)

    class Brightness(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(1, 2)
            self.linear.weight.data, self.linear.bias.data = (
                torch.tensor([[-20.0], [20.0]]),
                torch.tensor([10.0, -10.0]),
            )

        def forward(self, x):
            return self.linear(x.mean((1, 2, 3))[:, None])

    teacher = Network(Brightness(), num_classes=2, image_size=8, channels=1)
    torch.manual_seed(0)
    student = tiny_network((4, 6), 0, num_classes=2)
    method, engine = made(
        teacher=teacher,
        student=student,
        collected=collected,
        width=4,
        gan_batch=32,
        lr_gan=2e-3,
        bank=64,
        gan_iterations=150,
    )
    gan(method, engine, 150, total=150)
    c = torch.arange(32) % 2
    fake = engine.make(method.average.network, engine.noise(32, 8), c)
    assert F.cross_entropy(teacher(fake), c) < 0.3
    assert fake[c == 0].mean() + 0.3 < fake[c == 1].mean()


def test_classes_that_were_never_collected_are_counted(capsys):
    teacher = tiny_network((6, 8), 0)
    with torch.no_grad():
        teacher.module.linear.bias.copy_(torch.tensor([50.0, 50, 0, 0]))
    made(teacher=teacher)
    assert re.search("for [23] of its 4 classes", capsys.readouterr().out)


def test_flexible_selection_lowers_the_bar_for_rare_classes():
    """FlexMatch, by hand: of 4, 2 and 0 sure images the bars are 0.9, 0.9 * 0.5 / 1.5 and 0."""
    probability = torch.tensor([0.95, 0.92, 0.96, 0.91, 0.5, 0.92, 0.93, 0.4, 0.38, 0.36])
    classes = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 1])
    rows = ((1 - probability) / 2)[:, None].repeat(1, 3)
    rows[torch.arange(10), classes] = probability
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None]

    def logits_of(images):
        return rows[(images.flatten() * 255).round().long()].log()

    found = ranked(logits_of, pixels, "flexible", 0.9, 100)
    assert sorted(found.order.tolist()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert found.sure.tolist() == sorted(found.sure.tolist(), reverse=True)
    assert sorted(ranked(logits_of, pixels, "confidence", 0.9, 100).order.tolist()) == [0, 1, 2, 3, 5, 6]


def test_what_is_kept_is_counted_by_class():
    kept = Ranking(torch.tensor([3, 1, 0]), torch.tensor([2, 0, 2]), torch.tensor([0.9, 0.75, 0.5]))
    assert kept.facts(4) == {"kept": 3, "classes": [1, 0, 2, 0], "confidence": 0.75}


def test_sizes_that_the_gan_cannot_make_are_said_before():
    teacher = tiny_network((6, 8), 0, image_size=9)
    assert "doublings" not in requirements.offers(teacher)
    assert "doublings" in requirements.offers(tiny_network((6, 8), 0))
    (half,) = [text for text in requirements.missing(HiDFD, teacher) if "doubled" in text]
    assert "this teacher takes 9x9 ones" in half
