"""Soft targets: what is drawn, how images come to it, what the student learns from."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.logs import Silent
from helpers.networks import make_given, tiny_network
from torch import nn
from torch.optim import Adam

from dreamstill.data.load import load_images
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.losses.soft_targets import entropy
from dreamstill.losses.statistics import bn_statistics
from dreamstill.methods.parts import soft_targets
from dreamstill.methods.parts.optimised_images import Pixels
from dreamstill.methods.soft_target import SoftTarget
from dreamstill.networks import state_dicts
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.loop import Cadence, run
from dreamstill.runs.settings import build_method, method_spec

SMALL = {"batch_size": 16, "n_images": 32, "synthesis_batch": 16, "iterations": 4, "crop": 1, "tau": 5.0}
pytestmark = pytest.mark.filterwarnings("ignore:the soft targets")


def lenet(seed=0, classes=10, size=8):
    """LeNet in little: a convolution, a hidden linear layer whose output is modelled, the classifier."""
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * size**2, 32), nn.ReLU(),
        nn.Linear(32, classes),
    )  # fmt: skip
    return Network(body, num_classes=classes, image_size=size, channels=1, mean=[0.3], std=[0.4])


@pytest.fixture(scope="module")
def teacher():
    """It reads scikit-learn's digits at twice their size, after some seconds."""
    network, train = lenet(size=16), load_images("digits", "train", image_size=16)
    opt, images = Adam(network.parameters(), lr=5e-3), to_float(train.pixels)
    for _ in range(8):
        for index in torch.randperm(len(train)).split(64):
            opt.zero_grad()
            F.cross_entropy(network(images[index]), train.labels[index]).backward()
            opt.step()
    return network.eval()


def made(network=None, seed=0, student=None, **settings):
    network = network or lenet()
    student = student or tiny_network((3, 4), 1, num_classes=network.num_classes)
    engine = Engine(make_given(network, student), device="cpu", seed=seed, steps=100)
    method = SoftTarget.variant_of(settings)(**{**SMALL, **settings})
    method.check(engine.task.name)
    method.setup(engine)
    return method, engine


def synthesise(method, engine, batches=1):
    for i in range(batches * method.iterations):
        engine.begin(i, i / (method.batches * method.iterations))
        method.synthesis_step(engine)


# ---------------------------------------------------------------- the targets


@pytest.mark.parametrize(("sigma_is", "variance"), [("variance", 1.5), ("deviation", 2.25)])
def test_what_the_rest_is_given_has_the_covariance(sigma_is, variance):
    method, engine = made(sigma=1.5, sigma_is=sigma_is, mu=0.3)
    weight = engine.given.teacher.module[4].weight.detach()
    r = F.cosine_similarity(weight[:, None], weight[None], dim=2)
    assert r.shape == (32, 32)
    seen = []
    method.targets.rest = lambda a: seen.append(a) or a[:, :10]
    method.targets.draw(engine, 200_000)
    a = seen[0] - 0.3
    assert a.mean(0).abs().max() < 0.02
    assert (a.T @ a / len(a) - variance * r).abs().max() < 0.02 * max(variance, 1)


@pytest.mark.parametrize("entry", ["raw", "rectified", "truncated", "through"])
def test_how_a_draw_enters(entry):
    method, engine = made(entry=entry, centre="off")
    seen = []
    rest = method.targets.rest
    method.targets.rest = lambda a: seen.append(a) or rest(a)
    y = method.targets.draw(engine, 500)
    a = seen[0]
    if entry in ("rectified", "truncated"):
        assert a.min() >= 0
        assert ((a == 0).double().mean() > 0.3) == (entry == "rectified")
    else:
        assert abs((a < 0).double().mean() - 0.5) < 0.1
    entered = a.relu() if entry == "through" else a  # the layer's own activation comes after it
    logits = engine.given.teacher.module[6](entered)
    assert torch.allclose(y, torch.softmax(logits / 5.0, 1), atol=1e-6)


def test_through_the_layers_own_activation_is_rectified():
    draws = [m.targets.draw(e, 50) for m, e in (made(entry=entry) for entry in ("rectified", "through"))]
    assert torch.allclose(*draws, atol=1e-6)


def test_the_bias_is_added_on_request():
    method, engine = made(bias=True, sigma=0.0, mu=0.5, entry="raw")
    y = method.targets.draw(engine, 2)
    body = engine.given.teacher.module
    expected = torch.softmax(body[6](0.5 + body[4].bias) / 5.0, 0)
    assert torch.allclose(y, expected.expand(2, -1), atol=1e-6)


def test_without_a_hidden_layer_the_filters_are_pooled_and_the_logits_centred():
    network = tiny_network((6, 8), 0)
    method, engine = made(network)
    assert method.targets.rows.shape == (8, 6 * 9)
    seen = []
    rest = method.targets.rest
    method.targets.rest = lambda a: seen.append(a) or rest(a)
    y = method.targets.draw(engine, 2000)
    assert seen[0].min() == 0
    logits = network.module.linear(seen[0])
    assert torch.allclose(y, torch.softmax((logits - logits.mean(0)) / 5.0, 1), atol=1e-6)
    even, _ = soft_targets.shares(y).aminmax()
    uneven, _ = soft_targets.shares(torch.softmax(logits, 1)).aminmax()
    assert even > uneven


def test_the_same_normal_on_the_logits():
    method, engine = made(space="softmax", sigma=2.0)
    weight = engine.given.teacher.module[6].weight.detach()
    y = method.targets.draw(engine, 100_000)
    zeta = 5.0 * (y.log() - y.log().mean(1, keepdim=True))  # the softmax forgets a common shift
    rows = F.normalize(weight, dim=1)
    rows = rows - rows.mean(0)
    assert (zeta.T @ zeta / len(zeta) - 2.0 * rows @ rows.T).abs().max() < 0.04


def test_the_other_axis_is_another_model_of_low_rank():
    method, engine = made(correlate="inputs")
    assert method.targets.rows.shape == (32, 10)
    assert torch.linalg.matrix_rank(method.targets.rows @ method.targets.rows.T) <= 10
    assert method.targets.draw(engine, 5).shape == (5, 10)
    method, _ = made(correlate="inputs", layer="4")
    assert method.targets.rows.shape == (128, 32)
    with pytest.raises(InputError, match="no linear layer '0'"):
        made(correlate="inputs", layer="0")


def test_one_class_after_the_other():
    method, engine = made(space="onehot")
    assert torch.equal(method.targets.draw(engine, 12), torch.eye(10)[[*range(10), 0, 1]])
    assert replace(method, lambda_a=0.0).needed == {"input_gradient"}
    assert SoftTarget().needed == {"input_gradient", "linear_head"}


def test_draws_differ_between_batches_and_not_between_runs():
    method, engine = made()
    drawn = []
    for at in (0, 0, 4):
        engine.begin(at, 0.0)
        drawn.append(method.targets.draw(engine, 16))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.allclose(drawn[0].sum(1), torch.ones(16))


def test_it_warns_of_targets_that_hardly_differ_and_of_rare_classes(capsys):
    made(tau=20.0, sigma=0.1)
    assert re.search(r"entropy is 2\.30.* of at most 2\.303 nats", capsys.readouterr().out)
    biased = lenet()
    with torch.no_grad():
        biased.module[6].bias[3] = 100.0
    made(biased)
    assert "from 0.0% to 100.0% where 10.0% would be even" in capsys.readouterr().out
    made(space="softmax", tau=1.0, sigma=4.0)
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- the images


@pytest.mark.slow
def test_the_images_come_to_their_targets(teacher):
    """The divergence is never negative and falls below 0.05; more than 95 % end in their target's class."""
    settings = {"tau": 20.0, "iterations": 300, "n_images": 128, "synthesis_batch": 128}
    method, engine = made(teacher, **settings)
    before = state_dicts.fingerprint(teacher.module)
    seen = []
    for i in range(300):
        engine.begin(i, i / 300)
        method.synthesis_step(engine)
        seen.append(engine.read())
    assert before == state_dicts.fingerprint(teacher.module)
    first, last = seen[0], seen[-1]
    gaps = [row["images/distance"] / 400 for row in seen]  # without tau squared
    assert min(gaps) >= 0
    assert gaps[-1] < 0.001
    assert gaps[-1] < gaps[0] / 20
    assert last["images/agreement"] > 0.95
    assert last["images/gap"] == pytest.approx(gaps[-1], abs=1e-3)  # quantising costs little
    assert 0.1 < last["images/confidence"] <= 1
    assert first["targets/entropy"] == pytest.approx(entropy(method.wanted).item(), abs=1e-6)
    # What is stored is what the teacher says of the stored images, not the target.
    kept = method.stored.draw(torch.arange(128))
    with torch.no_grad():
        assert torch.allclose(teacher(kept.images), kept.logits, atol=0.02, rtol=1e-3)
    assert engine.drawn == 128


@pytest.mark.slow
def test_an_activation_term_that_grows_with_the_distance_drowns_the_targets(teacher):
    """Why tau squared is for the distance alone by default: at tau 20 the published weight is 400 times too much."""
    agreement = {}
    for how in ("distance", "both"):
        method, engine = made(teacher, tau_squared=how, tau=20.0, iterations=60, n_images=64, synthesis_batch=64)
        synthesise(method, engine)
        agreement[how] = engine.read()["images/agreement"]
    assert agreement["distance"] > agreement["both"] + 0.1


def test_a_batch_keeps_its_targets_and_starts_from_noise_with_a_new_optimiser():
    method, engine = made(lr_x=0.0)
    seen, images, steps = [], [], []
    for i in range(8):
        engine.begin(i, i / 8)
        method.synthesis_step(engine)
        seen.append(method.wanted.clone())
        images.append(method.canvas.images.detach().clone())
        steps.append(int(method.opt_x.opt.state[method.canvas.images]["step"]))
    assert steps == [1, 2, 3, 4] * 2
    assert all(torch.equal(seen[0], y) for y in seen[:4])
    assert all(torch.equal(seen[4], y) for y in seen[4:])
    assert not torch.equal(seen[0], seen[4])
    assert torch.equal(images[0], images[3])  # with a rate of 0
    assert not torch.equal(images[0], images[4])
    assert len(method.stored) == 32
    flat = torch.cat(images).flatten()
    assert abs(flat.mean() - 0.5) < 0.02
    assert abs(flat.std() - 12**-0.5) < 0.02


def test_other_starts_and_other_ranges():
    method, engine = made(lr_x=0.0, init="normal", pixels="free")
    synthesise(method, engine)
    flat = method.canvas.images.detach().flatten()
    assert abs(flat.mean() - 0.3) < 0.06
    assert abs(flat.std() - 0.4) < 0.06
    method, engine = made(lr_x=0.0, init="mean", pixels="free")
    synthesise(method, engine)
    flat = method.canvas.images.detach().flatten()
    assert abs(flat.mean() - 0.3) < 0.01
    assert abs(flat.std() - 0.05) < 0.01
    assert 0 <= flat.min() <= flat.max() <= 1
    canvas = Pixels(2, 1, 1, 2)
    for how, expected in (("free", [-1.0, 0.0, 1.0, 3.0]), ("clamp", [0, 0, 1, 1]), ("rescale", [0, 0.25, 0.5, 1])):
        with torch.no_grad():
            canvas.images.copy_(torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(2, 1, 1, 2))
        canvas.settle(how)
        assert canvas.images.flatten().tolist() == expected


def test_the_rate_is_halved_twice_in_each_batch():
    method, engine = made(n_images=48, iterations=10)
    rates = []
    for i in range(30):
        engine.begin(i, i / 30)
        method.synthesis_step(engine)
        rates.append(method.opt_x.opt.param_groups[0]["lr"] / method.lr_x)
    assert rates == ([1.0] * 6 + [0.5] * 2 + [0.25] * 2) * 3


@pytest.mark.slow
def test_a_run_cut_in_the_middle_of_a_batch_has_the_same_bits(tmp_path):
    """After 6 of 8 iterations of synthesis: in the second batch, with Adam's moments of that batch."""

    class Halt(Exception):
        pass

    class Halting(Silent):
        def progress(self, done, values):
            if done == 6:
                raise Halt

    def go(folder, log, resume=False):
        method, engine = made()
        engine.steps = 3
        run(method, engine, Checkpoints(tmp_path / folder), log, Cadence(log=1, checkpoint_steps=1), resume)
        return method

    whole = go("whole", Silent())
    with pytest.raises(Halt):
        go("cut", Halting())
    again = go("cut", Silent(), resume=True)
    assert torch.equal(whole.stored.pixels, again.stored.pixels)
    assert torch.equal(whole.stored.logits, again.stored.logits)
    for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_the_images_move_and_only_they_have_gradients():
    method, engine = made(w_tv=1.0, w_norm=1.0, jitter=True)
    step, seen = method.opt_x.opt.step, []

    def checked():
        grad = method.canvas.images.grad
        seen.append(bool(grad.isfinite().all()) and float(grad.abs().sum()) > 0)
        for network in (engine.given.teacher, engine.given.student):
            assert all(p.grad is None for p in network.parameters())
        step()

    method.opt_x.opt.step = checked
    state = [{k: v.clone() for k, v in n.state_dict().items()} for n in (engine.given.teacher, engine.given.student)]
    synthesise(method, engine)
    assert seen == [True] * 4
    for before, network in zip(state, (engine.given.teacher, engine.given.student), strict=True):
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def terms_of(**settings):
    """The terms where the images start: with a rate of 0 a step leaves them there."""
    method, engine = made(lr_x=0.0, **settings)
    engine.begin(0, 0.0)
    method.synthesis_step(engine)
    with torch.no_grad():
        return {k: v.item() for k, v in method.loss_x(method.wanted).items()}


@pytest.mark.slow
def test_the_terms_and_their_weights():
    base = terms_of(tau_squared="none", lambda_a=1.0, sigma=20.0)
    assert base.keys() == {"distance", "activation"}
    assert base["distance"] > 0 > base["activation"]
    both = terms_of(tau_squared="both", lambda_a=0.5, sigma=20.0)
    assert both == {
        "distance": pytest.approx(25 * base["distance"]),
        "activation": pytest.approx(12.5 * base["activation"]),
    }
    only = terms_of(tau_squared="distance", lambda_a=0.5, sigma=20.0)
    assert only["activation"] == pytest.approx(0.5 * base["activation"])
    assert only["distance"] == pytest.approx(both["distance"])
    summed = terms_of(tau_squared="none", lambda_a=1.0, sigma=20.0, reduction="sum")
    assert summed["activation"] == pytest.approx(128 * base["activation"], rel=1e-5)
    pooled = terms_of(tau_squared="none", lambda_a=1.0, sigma=20.0, activation="6:input")
    assert pooled["activation"] != pytest.approx(base["activation"], rel=1e-3)
    assert pooled["distance"] == pytest.approx(base["distance"])
    assert terms_of(lambda_a=0.0).keys() == {"distance"}
    more = terms_of(tau_squared="none", exchanged=True, sigma=20.0, w_tv=2.0, w_norm=4.0)
    assert more.keys() == {"distance", "activation", "tv", "norm"}
    mean = made()[1].given.teacher.mean.item()
    assert more["norm"] == pytest.approx(4 * (1 / 12 + (0.5 - mean) ** 2), rel=0.15)  # the start is uniform in [0, 1]
    assert more["distance"] != pytest.approx(base["distance"], rel=1e-4)
    assert more["distance"] > 0
    assert more["tv"] == pytest.approx(2 * 2 / 6, rel=0.15)  # neighbours of uniform noise differ by 1/6 in square


def with_batch_norm():
    """A teacher whose batch norm remembers images of much less contrast than white noise."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip
    network = Network(body, num_classes=10, image_size=8, channels=1, mean=[0.3], std=[0.4]).train()
    for _ in range(30):
        network(torch.rand(32, 1, 1, 1).expand(32, 1, 8, 8))
    return network.eval()


def test_with_w_bn_the_images_come_to_the_statistics_of_the_teachers_batch_norms():
    ends = {}
    for weight in (0.0, 3.0):
        method, engine = made(with_batch_norm(), w_bn=weight, iterations=60, lr_x=0.1)
        assert ("bn" in method.needed) == (weight > 0)
        synthesise(method, engine)
        seen = engine.frozen(engine.given.teacher, bn=True)(method.canvas.images.detach(), stats=True)
        ends[weight] = bn_statistics(seen.moments).item()
        if weight:
            term = method.loss_x(method.wanted)["bn"].item()
            assert term == pytest.approx(3 * ends[weight], rel=1e-4)
    assert ends[3.0] < 0.3 * ends[0.0]


def test_targets_drawn_anew_each_time_are_the_ports_way():
    method, engine = made(redraw_targets=True)
    seen = []
    for i in range(3):
        engine.begin(i, 0.0)
        method.synthesis_step(engine)
        seen.append(method.wanted.clone())
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_the_ports_ways_are_a_class_of_their_own_and_keep_the_methods_name():
    ported = SoftTarget.variant_of({"exchanged": True})
    assert ported is not SoftTarget
    for settings in ({"exchanged": True}, {"redraw_targets": True}, {"correlate": "inputs"}):
        built = build_method({"name": "soft_target", **settings})
        assert type(built) is ported
        assert method_spec(built) == method_spec(SoftTarget(**settings))
        assert build_method(method_spec(built)) == built
    off = {"exchanged": False, "redraw_targets": False, "correlate": "units", "jitter": True}
    assert type(build_method({"name": "soft_target", **off})) is SoftTarget


def test_an_unknown_layer_is_named():
    for settings in ({"layer": "nope"}, {"activation": "nope"}):
        with pytest.raises(InputError, match="'nope'"):
            made(**settings)


# ---------------------------------------------------------------- the student


def student_inputs(**settings):
    method, engine = made(**settings)
    synthesise(method, engine, 2)
    seen = []
    minimise = engine.minimise
    engine.minimise = lambda fn, *owned, inputs=(): (seen.append(inputs), minimise(fn, *owned, inputs=inputs))[1]
    engine.begin(8, 0.0)
    method.step(engine)
    return seen[0], method, engine


def test_without_augmentation_the_stored_logits_are_learnt_from():
    (images, t), method, _ = student_inputs(crop=0, flip=False, noise=0.0)
    pixels = to_float(method.stored.pixels)
    for image, logits in zip(images, t, strict=True):
        (index,) = (pixels == image).flatten(1).all(1).nonzero()[0].tolist()
        assert torch.equal(method.stored.logits[index].float(), logits)
    assert method.opt_s.steps == 1


@pytest.mark.parametrize("more", [{"crop": 2}, {"flip": True}, {"noise": 0.2}])
def test_moved_images_are_put_to_the_teacher_again(more):
    inputs, method, engine = student_inputs(**{"crop": 0, "flip": False, "noise": 0.0, **more})
    assert len(inputs) == 1
    (images,) = inputs
    pixels = to_float(method.stored.pixels)
    known = sum(bool((pixels == image).flatten(1).all(1).any()) for image in images)
    assert known < 16
    assert 0 <= images.min() <= images.max() <= 1
    with torch.no_grad():
        asked = method.loss_s(images)["kl"]
        told = method.loss_s(images, engine.given.teacher(images))["kl"]
    assert asked == pytest.approx(told.item(), rel=1e-5)
    assert engine.drawn == 32  # noise on an image makes no new one


def test_the_students_temperature():
    method, engine = made(tau=5.0)
    images = torch.rand(16, 1, 8, 8)
    other, _ = made(tau=5.0, tau_s=1.0)
    for m in (method, other):
        m.student.eval()
    with torch.no_grad():
        s, t = engine.given.student(images), engine.given.teacher(images)
        expected = [
            tau**2 * F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction="batchmean")
            for tau in (5.0, 1.0)
        ]
        found = [m.loss_s(images)["kl"] for m in (method, other)]
    assert [f.item() for f in found] == [pytest.approx(e.item(), rel=1e-4) for e in expected]


def test_the_students_optimiser():
    _, engine = made(lr_s=0.01)
    (group,) = engine.owned["student"].opt.param_groups
    assert isinstance(engine.owned["student"].opt, torch.optim.Adam)
    assert (group["lr"], group["weight_decay"]) == (0.01, 0)
    _, engine = made(student_optimiser="sgd", lr_s=0.05)
    (group,) = engine.owned["student"].opt.param_groups
    assert isinstance(engine.owned["student"].opt, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0.9, 5e-4)
    assert isinstance(engine.owned["images"].opt, torch.optim.Adam)  # the pixels' stays


@pytest.mark.slow
def test_the_student_learns_digits_from_images_of_noise(teacher, tmp_path):
    settings = {"tau": 20.0, "iterations": 60, "n_images": 256, "synthesis_batch": 256, "batch_size": 64}
    method, engine = made(teacher, student=lenet(1, size=16), flip=False, **settings)
    engine.steps = 150
    outcome = run(method, engine, Checkpoints(tmp_path), Silent(), Cadence())
    test = load_images("digits", "test", image_size=16)
    with torch.no_grad():
        accuracy = (outcome.ema.network(to_float(test.pixels)).argmax(1) == test.labels).double().mean()
        images = to_float(method.stored.pixels)
        agree = (outcome.ema.network(images).argmax(1) == teacher(images).argmax(1)).double().mean()
    assert agree > 0.4  # 0.1 is chance
    assert accuracy > 0.4


def test_phases_and_the_set():
    method, engine = made(n_images=33)
    assert [(p.name, p.iterations) for p in method.phases(70)] == [("synthesise", 12), ("distil", 70)]
    assert method.transfer_set() is method.stored
    assert method.stored.capacity == 48
    with pytest.raises(InputError, match="no batch of the transfer set is finished"):
        method.synthesise(engine, 4)
    assert math.isclose(method.targets.scale, math.sqrt(2.0))


def test_the_students_images_are_warped_on_request():
    fed = []
    for warp in (0.0, 1.0):
        method, engine = made(crop=0, flip=False, noise=0.0, warp=warp)
        shape = method.stored.pixels.shape
        method.stored.add(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
        method.loss_s = lambda images, t=None, loss=method.loss_s: (fed.append((images, t)), loss(images, t))[1]
        engine.begin(0, 0.0)
        method.step(engine)
    (plain, known), (warped, asked) = fed
    assert known is not None
    assert asked is None
    assert not (plain == warped).flatten(1).all(1).any()
    assert 0 <= float(warped.min()) <= float(warped.max()) <= 1


@pytest.mark.parametrize("space", ["dirichlet", "onehot"])
def test_batches_smaller_than_the_classes_reach_all_of_them(space):
    method, engine = made(space=space, n_images=30, synthesis_batch=6, iterations=1, lambda_a=0.0)
    asked = []
    draw = method.targets.draw
    method.targets.draw = lambda e, n, first=0: asked.append(first) or draw(e, n, first)
    synthesise(method, engine, 5)
    assert asked == [0, 6, 12, 18, 24]
    if space == "onehot":
        assert method.account.counts.tolist() == [3] * 10


def test_what_was_made_is_summed_up():
    method, engine = made(iterations=3)
    synthesise(method, engine, method.batches)
    said = method.facts()["transfer_set"]
    with torch.no_grad():
        logits = engine.given.teacher(to_float(method.stored.pixels))
    assert said["images"] == 32 == sum(said["target_classes"])
    assert said["confidence"] == pytest.approx(float(logits.softmax(1).amax(1).mean()), abs=1e-6)
    assert 0 < said["target_entropy"] < said["target_entropy_at_most"] == pytest.approx(math.log(10))
    assert 0 <= said["agreement"] <= 1
    # The first batch alone: its targets are known.
    method, engine = made(iterations=3, n_images=16)
    synthesise(method, engine)
    said = method.facts()["transfer_set"]
    assert said["target_entropy"] == pytest.approx(float(entropy(method.wanted)), abs=1e-6)
    assert said["target_classes"] == method.wanted.argmax(1).bincount(minlength=10).tolist()
    with torch.no_grad():
        right = engine.given.teacher(to_float(method.stored.pixels)).argmax(1) == method.wanted.argmax(1)
    assert said["agreement"] == pytest.approx(float(right.double().mean()))


def test_onehot_needs_no_linear_layer_where_no_features_are_rewarded():
    body = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
    network = Network(body, num_classes=4, image_size=8, channels=1)
    assert "linear_head" in SoftTarget(space="onehot").needed
    assert "linear_head" not in SoftTarget(space="onehot", activation="0").needed
    assert SoftTarget(space="onehot", lambda_a=0.0).needed == {"input_gradient"}
    synthesise(*made(network, space="onehot", lambda_a=0.0))
    with pytest.raises(InputError, match="onehot with lambda_a 0"):
        made(network, space="onehot")


def test_pooled_filters_have_no_activation_of_their_own_to_go_through():
    with pytest.raises(InputError, match="take entry rectified, truncated or raw"):
        made(tiny_network((6, 8), 0), entry="through")
