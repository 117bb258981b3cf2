"""The engine's verbs: what is drawn, frozen, compiled, counted."""

import copy
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from helpers.networks import make_given, tiny_network
from torch._dynamo.testing import CompileCounter
from torch.optim import SGD, Adam

from dreamstill.engine import Engine, GlobalBatchNorm2d, choose, hardware
from dreamstill.engine import hardware as hardware_module
from dreamstill.engine.ema import Ema
from dreamstill.engine.ranks import share_batch_norm
from dreamstill.errors import InputError
from dreamstill.losses.statistics import bn_statistics


def engine(**settings):
    return Engine(make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1)), device="cpu", **settings)


def test_draws_are_functions_of_seed_iteration_and_call():
    a, b = engine(seed=3), engine(seed=3)
    a.begin(5, 0.1)
    first, second = a.noise(4, 2), a.noise(4, 2)
    b.begin(4, 0.0)
    b.noise(4, 2)
    b.begin(5, 0.1)
    assert torch.equal(first, b.noise(4, 2))
    assert torch.equal(second, b.noise(4, 2))
    assert not torch.equal(first, second)
    other = engine(seed=4)
    other.begin(5, 0.1)
    assert not torch.equal(first, other.noise(4, 2))


def test_a_sweep_sees_every_image_once_an_epoch():
    e = engine()
    epochs = []
    for epoch in range(2):
        seen = []
        for i in range(5):
            e.begin(epoch * 5 + i, 0.0)
            seen.append(e.sweep(20, 4))
        epochs.append(torch.cat(seen))
    assert all(sorted(order.tolist()) == list(range(20)) for order in epochs)
    assert not torch.equal(*epochs)


def test_labels_and_integers_stay_in_range():
    e = engine()
    e.begin(0, 0.0)
    labels = e.labels(4000)
    assert labels.unique().tolist() == [0, 1, 2, 3]
    assert torch.bincount(labels).min() > 850  # uniform: 1000 each, six standard deviations are 164
    assert e.integers(3, 50, 2).shape == (50, 2)
    assert 0.4 < e.coins(1000).double().mean() < 0.6


def losses(e):
    """A generator-like and a student-like loss on the probed teacher."""
    teacher = e.frozen(e.given.teacher, taps=("blocks.0",), bn=True)
    student, opt = e.own("student", e.given.student, lambda p: SGD(p, lr=0.1))
    pixels = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.Parameter(pixels.to(e.given.teacher.mean.dtype))

    def loss(images):
        seen = teacher(images + pixels, stats=True)
        terms = {"bn": bn_statistics(seen.moments), "tap": seen.taps["blocks.0"].square().mean()}
        return {**terms, "distance": (student(images) - seen.logits).square().mean()}

    return loss, opt, pixels


@pytest.mark.slow
def test_hooks_set_before_compilation_fire_and_carry_gradients():
    """A hook added after the first compiled call never would: the probes are in before it."""
    found = {}
    for compile in (False, True):
        e = engine(compile=compile, precision="64")
        loss, opt, pixels = losses(e)
        images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
        for i in range(3):
            e.begin(i, 0.0)
            e.minimise(loss, opt, inputs=(images,))
        found[compile] = (e.read(), pixels.grad.clone(), e.given.student.module.linear.weight.detach().clone())
    plain, compiled = found[False], found[True]
    assert plain[0].keys() == compiled[0].keys()
    # The compiler adds in another order: in float64 that is 1e-15 an operation, and three steps of SGD add up no more
    # than some hundreds of them.
    assert all(plain[0][k] == pytest.approx(compiled[0][k], rel=1e-10) for k in plain[0])
    assert plain[1].abs().sum() > 0
    assert torch.allclose(plain[1], compiled[1], rtol=1e-10, atol=1e-12)
    assert torch.allclose(plain[2], compiled[2], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_more_functions_than_the_compiler_s_limit_are_all_compiled(monkeypatch):
    """The compiler counts by code, and gives up on one after eight versions: a suite in one process has more."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    n = torch._dynamo.config.recompile_limit + 4
    for k in range(n):
        e = engine(compile=True)
        assert torch.equal(e.make(lambda x, k=k: x * k, torch.ones(2)), torch.full((2,), float(k)))
    assert counter.frame_count == n


def test_only_what_is_minimised_learns():
    e = engine()
    loss, opt, _ = losses(e)
    other, _ = e.own("other", torch.nn.Linear(2, 2), lambda p: SGD(p, lr=0.1))
    e.begin(0, 0.0)
    e.minimise(loss, opt, inputs=(torch.rand(16, 1, 8, 8),))
    assert not any(p.requires_grad for p in other.parameters())
    assert all(p.requires_grad for p in e.given.student.parameters())
    assert all(p.grad is None for p in e.given.teacher.parameters())
    assert opt.steps == 1


def test_a_student_whose_features_are_looked_at():
    e = engine()
    student, opt = e.own("student", e.given.student, lambda p: SGD(p, lr=0.1), taps=("linear:input", "blocks.0"))
    e.begin(0, 0.0)
    images = torch.rand(16, 1, 8, 8)

    def loss(images):
        seen = student(images)
        assert seen.logits.shape == (16, 4)
        return {"features": seen.taps["linear:input"].square().mean() + seen.taps["blocks.0"].square().mean()}

    before = copy.deepcopy(e.given.student.module)
    e.minimise(loss, opt, inputs=(images,))
    assert not torch.equal(before.blocks[0][0].weight, e.given.student.module.blocks[0][0].weight)
    assert torch.equal(before.linear.weight, e.given.student.module.linear.weight)  # behind the tap: no gradient
    # The average is a network like any other: it does not report to the probe.
    seen = student(images)
    Ema(e.given.student, 10).network(images[:3])
    assert student.module._features == {}
    assert seen.taps["linear:input"].shape[0] == 16


def test_read_gives_the_mean_since_the_last_reading():
    e = engine()
    x, opt = e.own("x", torch.nn.Linear(1, 1), lambda p: SGD(p, lr=0.0))
    for value in (1.0, 3.0):
        e.begin(0, 0.0)
        e.minimise(lambda v: {"term": v + 0 * x.module.weight.sum()}, opt, inputs=(torch.tensor(value),))
    assert e.read() == {"x/term": 2.0, "lr/x": 0.0}
    assert e.read() == {}


def test_global_batch_norm_equals_batch_norm_on_one_process(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    torch.manual_seed(0)
    plain, ours = torch.nn.BatchNorm2d(5).double(), GlobalBatchNorm2d(5).double()
    ours.average = lambda x: x
    x, y = (torch.randn(6, 5, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y.data.copy_(x.data)
    for layer, value in ((plain, x), (ours, y)):
        layer(value).square().sin().sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-12)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.allclose(getattr(plain, name).double(), getattr(ours, name).double(), atol=1e-12)


def test_global_batch_norm_takes_half_maps_by_exact_statistics(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    torch.manual_seed(0)
    plain, ours = torch.nn.BatchNorm2d(5), GlobalBatchNorm2d(5)
    ours.average = lambda x: x
    x = 3 + torch.randn(64, 5, 8, 8)
    y = ours(x.bfloat16().requires_grad_())
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert torch.allclose(y.float(), plain(x.bfloat16().float()), atol=0.02)
    assert ours.running_var.dtype == torch.float32
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(plain, name), getattr(ours, name), atol=1e-5)


def test_a_copy_of_the_student_does_not_copy_the_engine():
    import copy

    e = engine()
    share_batch_norm(e.given.student, e.average)
    copied = copy.deepcopy(e.given.student)
    layer = next(m for m in copied.modules() if isinstance(m, GlobalBatchNorm2d))
    assert layer.average.__closure__ is not None
    assert any(getattr(cell.cell_contents, "__self__", None) is e for cell in layer.average.__closure__)


class TestChoose:
    def test_a_device_that_is_not_there(self):
        with pytest.raises(InputError, match="device is 'tpu'"):
            choose("tpu", "auto", "auto", 1.0)
        with pytest.raises(InputError, match="precision is 'fp16': choose one of auto, 32, bf16, 64"):
            choose("cpu", "fp16", "auto", 1.0)
        with pytest.raises(InputError, match="compile is 'yes': choose one of auto, on, off"):
            choose("cpu", "32", "yes", 1.0)
        if not torch.cuda.is_available():
            with pytest.raises(InputError, match="there is no cuda device"):
                choose("cuda", "auto", "auto", 1.0)

    def test_apples_device_is_taken_when_it_is_asked_for(self, monkeypatch):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert choose("auto", "32", "off", 1.0).device == "cpu"
        assert choose("mps", "32", "off", 1.0).device == "mps"

    @pytest.mark.parametrize(
        ("speedup", "flops", "precision"), [(2.0, 1e15, "bf16"), (0.6, 1e15, "32"), (2.0, 1e9, "32")]
    )
    def test_bf16_on_a_cpu_only_where_it_is_faster(self, speedup, flops, precision, monkeypatch):
        monkeypatch.setattr(hardware, "_bf16_speedup", lambda: speedup)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
        assert choose("cpu", "auto", "off", flops).precision == precision

    def test_short_runs_do_not_compile(self):
        assert not choose("cpu", "32", "auto", 1e10).compile
        assert choose("cpu", "32", "auto", 1e17).compile

    def test_in_bf16_a_cpu_compiles_earlier(self):
        assert choose("cpu", "bf16", "auto", 5e13).compile
        assert not choose("cpu", "32", "auto", 5e13).compile

    def test_the_measurement_is_a_ratio(self, monkeypatch):
        """By a clock on which a convolution takes 1 s in float32 and 4 s in bf16."""
        now, conv2d = [0.0], torch.nn.functional.conv2d

        def timed(x, *rest, **options):
            now[0] += 4.0 if x.dtype == torch.bfloat16 else 1.0
            return conv2d(x, *rest, **options)

        monkeypatch.setattr(torch.nn.functional, "conv2d", timed)
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        assert hardware_module._bf16_speedup() == 0.25


def test_a_batch_that_processes_cannot_share():
    e = engine()
    e.draws.ranks = 3
    with pytest.raises(InputError, match="multiple"):
        e.noise(16, 2)


@pytest.mark.parametrize(
    ("opt", "says"), [(partial(Adam, betas=(1.5, 0.9)), "1.5"), (partial(SGD, lr=0.1, momentum=-1.0), "-1.0")]
)
def test_an_optimisers_setting_out_of_its_range_is_the_users_to_mend(opt, says):
    with pytest.raises(InputError, match=f"optimiser of the student.*{says}"):
        engine().own("student", tiny_network((3, 4), 1), opt)


def test_an_optimiser_that_is_restarted_steps_as_at_first():
    e = engine()
    module = torch.nn.Linear(3, 1)
    x, opt = e.own("x", module, lambda p: Adam(p, lr=0.1))
    start = {k: v.clone() for k, v in module.state_dict().items()}

    def train():
        module.load_state_dict(start)
        for i in range(3):
            e.begin(i, 0.0)
            e.minimise(lambda v: {"loss": x(v).square().mean()}, opt, inputs=(torch.ones(2, 3),))
        return module.weight.detach().clone()

    first, warm = train(), train()
    assert not torch.equal(first, warm)
    e.restart(opt)
    assert torch.equal(first, train())
    assert opt.steps == 9  # what was spent is not forgotten


def test_draws_alike_leave_the_global_stream_alone():
    e = engine()
    e.begin(4, 0.0)
    expected = torch.rand(2)
    e.begin(4, 0.0)
    with e.alike():
        first = torch.rand(3)
    with e.alike():
        second = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    assert not torch.equal(first, second)
    e.begin(4, 0.0)
    with e.alike():
        assert torch.equal(torch.rand(3), first)


def test_only_noise_that_becomes_images_counts_as_such():
    e = engine()
    e.noise(5, 2)
    e.noise(7, 2, images=False)
    assert e.drawn == 5


def test_a_rank_has_its_own_rows():
    e = engine()
    x = torch.arange(12.0).view(6, 2).requires_grad_()
    assert torch.equal(e.mine(x), x)
    e.draws.ranks, e.draws.rank = 3, 1
    assert torch.equal(e.mine(x), x[2:4])
    e.mine(x).sum().backward()
    assert x.grad.sum(1).tolist() == [0, 0, 2, 2, 0, 0]
    with pytest.raises(InputError, match="a batch of 4 cannot be shared by 3"):
        e.mine(x[:4])


def test_what_is_observed_is_read_and_not_minimised():
    e = engine()
    e.observe("targets", {"entropy": torch.tensor(2.0)})
    e.observe("targets", {"entropy": torch.tensor(4.0)})
    assert e.read() == {"targets/entropy": 3.0}


def test_a_gradient_is_clipped_to_its_norm():
    e = engine()
    x, opt = e.own("x", torch.nn.Linear(1, 1, bias=False), lambda p: SGD(p, lr=1.0), clip=0.5)
    before = x.module.weight.item()
    e.minimise(lambda v: {"t": 100 * x(v).sum()}, opt, inputs=(torch.ones(1, 1),))
    assert before - x.module.weight.item() == pytest.approx(0.5, rel=1e-4)


def test_the_counts_of_what_was_done_are_part_of_the_state():
    a, b = engine(), engine()
    for e in (a, b):
        e.own("x", torch.nn.Linear(1, 1))
        e.bank("b", 4)
    a.noise(5, 2)
    a.owned["x"].steps = 7
    a.banks["b"].add(torch.full((1, 1, 8, 8), 2.0))
    b.load(a.state())
    assert (b.drawn, b.owned["x"].steps, b.banks["b"].clipped_share) == (5, 7, 1.0)


@pytest.mark.slow
def test_importing_the_engine_leaves_the_process_as_it_is():
    code = (
        "import logging, ctypes; names = ('lightning.fabric', 'lightning.pytorch', 'torch.utils.cpp_extension'); "
        "import lightning.fabric, torch; before = [logging.getLogger(n).level for n in names]; "
        "import dreamstill.engine.launch as launch; assert before == [logging.getLogger(n).level for n in names]; "
        "launch.settle_process(); assert before != [logging.getLogger(n).level for n in names]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_phases_own_schedule_stands_over_the_networks(network):
    e = engine()
    module, item = e.own("student", e.given.student, partial(SGD, lr=0.5), lambda p: 0.1)
    images = torch.rand(4, 1, 8, 8)
    for schedules, lr in (({}, 0.05), ({"student": lambda p: 1 - p}, 0.25), ({}, 0.05)):
        e.begin(0, 0.5, schedules)
        e.minimise(lambda x: {"loss": module(x).square().mean()}, item, inputs=(images,))
        assert item.opt.param_groups[0]["lr"] == pytest.approx(lr)


def test_what_is_made_uncounted_is_not_counted():
    e = engine()
    e.begin(0, 0.0)
    e.noise(8, 2)
    with e.uncounted():
        e.noise(8, 2)
    assert e.drawn == 8
