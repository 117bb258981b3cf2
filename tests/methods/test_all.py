"""Every method and control through the same tests; a new one is found by itself."""

import copy
from dataclasses import fields
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.logs import Silent
from helpers.networks import dense_network, make_given, tiny_network
from helpers.small import small

from dreamstill import methods
from dreamstill.commands.methods import settings_of
from dreamstill.engine import Engine, Hardware
from dreamstill.errors import DivergedError, InputError
from dreamstill.networks.network import Network
from dreamstill.ranges import Batch, Small, check_ranges, marked, types_of
from dreamstill.runs import budget, certificate
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.loop import Cadence, run
from dreamstill.runs.settings import build_method
from dreamstill.runs.synthetic_images import obeyed

# A tiny untrained teacher's soft targets hardly differ, and the method says so.
pytestmark = pytest.mark.filterwarnings("ignore:the soft targets")

NAMES = sorted(methods.names())
VARIANTS = {  # switches that change the algorithm: the same tests for them
    "ddad reuse": {"reuse": True},
    "ddad log": {"adversarial": "log", "schedule": "thirds"},
    "ddad auto": {"alpha": "auto", "alpha_after": 6},
    "cpsc reuse": {"reuse": True},
    "cpsc released": {"variant": "released", "ikd": "log_mse"},
    "cpsc student contrast": {"gamma_s": 1.0, "condition": "concat"},
    "cpsc unconditional": {"condition": "none", "eta": 0.0, "gamma": 0.0},
    "cgdd before": {"pre": 0.5, "crop": 1, "flip": True, "w_adv_maps": 1.0, "w_act": 0.1},
    "cgdd reuse": {"reuse": True, "w_at": 0.0},
    "cgdd two_stage": {"mode": "two_stage"},
    "cgdd hint": {"feat": "hint", "kd": "l1", "mask": False, "condition": "ccbn"},
    "cgdd unlabelled": {"condition": "none", "w_at": 0.0},
    "deep_inversion adaptive": {"w_adv": 1.0, "warmup": 1, "student_steps": 3, "pixels": "free", "jitter": False},
    "soft_target stored": {"crop": 0, "flip": False, "noise": 0.0, "space": "dirichlet", "lambda_a": 0.0},
    "soft_target port": {"redraw_targets": True, "jitter": True, "exchanged": True, "correlate": "inputs", "w_tv": 1.0},
    "hidfd bare": {"w_transfer": 0.0, "w_blend": 0.0, "w_smooth": 0.0, "inflation": 0, "align": "pooled"},
    "hidfd released": {
        "feature_gradient": False, "update_every": 0, "sample_from": "raw", "released_pixels": True, "stretch": True,
        "augmentation": "resized", "flip": True, "discriminator_steps": 2, "w_kl": 1.0,
    },
}  # fmt: skip
ALL = [*NAMES, *VARIANTS]
NOT_LARGE = {"alpha_after", "keep"}  # a run of few steps, or of few images, does not get that far


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """Operations are counted in the first iteration of a phase alone: counting takes five times what it counts."""
    monkeypatch.setitem(run.__globals__, "COUNTED", 1)


def make(name, **overrides):
    return small(methods.get(name.split()[0]), **{**VARIANTS.get(name, {}), **overrides})


def engine(seed=0, steps=15, **kwargs):
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(4, (50,), generator=torch.Generator().manual_seed(2))
    given = make_given(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), images, labels, images, images, torch.randn(50, 4)
    )
    return Engine(given, device="cpu", seed=seed, steps=steps, **kwargs)


def dense_engine(seed=0, steps=15, **kwargs):
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(256, (50, 1, 16, 32), dtype=torch.uint8, generator=draw)
    labels = torch.randint(4, (50, 16, 32), dtype=torch.uint8, generator=draw)
    labels[:, 0] = 255  # void
    given = make_given(dense_network(6, 0), dense_network(3, 1), images, labels, images)
    return Engine(given, device="cpu", seed=seed, steps=steps, **kwargs)


def go(name, folder, *, e=None, resume=False, cadence=None, **overrides):
    e = e or engine()
    method = make(name, **overrides)
    method.setup(e)
    log = Silent()
    outcome = run(method, e, Checkpoints(folder), log, cadence or Cadence(log=1), resume)
    return method, e, outcome, log


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# The tests of a run go to one of the processes that tests are shared among, and it is made once.
@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ALL])
def done(request, tmp_path_factory):
    """A whole run, once for the tests that look at it: its name, its method, its engine, what came of it, its log."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(run.__globals__, "COUNTED", 1)
        return request.param, *go(request.param, tmp_path_factory.mktemp("done"))


@pytest.mark.slow
def test_the_student_learns_and_the_teacher_does_not(done):
    _, method, e, outcome, log = done
    fresh = engine().given
    teacher, student = fresh.teacher, fresh.student
    assert same(teacher, e.given.teacher)
    assert not any(p.requires_grad for p in e.given.teacher.parameters())
    assert not e.given.teacher.training
    assert not same(student, method.deliver())
    assert outcome.iterations == sum(p.iterations for p in method.phases(15))
    assert e.owned["student"].steps >= 15
    losses = [k for k in log.rows[-1][1] if "/" in k]
    assert losses
    assert all(torch.isfinite(torch.tensor(v)) for _, row in log.rows for v in row.values())
    assert outcome.flops > 0


@pytest.mark.slow
@pytest.mark.whole_end
def test_each_gets_a_certificate(done, monkeypatch):
    _, method, e, outcome, _ = done
    monkeypatch.setattr(certificate, "IMAGES", 64)
    inputs = SimpleNamespace(given=e.given, collected=None)
    run_done = SimpleNamespace(
        plan=SimpleNamespace(inputs=inputs), engine=e, network=outcome.ema.network, outcome=outcome,
        images=method.synthesise(e, 64),
    )  # fmt: skip
    found = certificate.certify(run_done)["certificate"]
    assert 0 <= found["agreement"] <= 1
    assert found["left_out"] == []
    assert all(0 <= source["weight"] <= 1 for source in found["sources"])


@pytest.mark.slow
def test_a_stopped_and_resumed_run_has_the_same_bits(done, tmp_path):
    name, whole, _, outcome, log = done

    class Halt(Exception):
        pass

    class Halting(Silent):
        def progress(self, done, values):
            if done == 2:
                raise Halt

    e = engine()
    method = make(name)
    method.setup(e)
    with pytest.raises(Halt):
        run(method, e, Checkpoints(tmp_path / "cut"), Halting(), Cadence(log=1, checkpoint_steps=1))
    resumed, _, again, rows = go(name, tmp_path / "cut", resume=True)
    assert same(whole.deliver(), resumed.deliver())
    assert same(outcome.ema.network, again.ema.network)
    assert log.rows[-1][1].keys() == rows.rows[-1][1].keys()
    assert rows.rows[0][0] == 2  # it did go on, and did not start again


def test_nothing_that_changes_is_left_out_of_the_checkpoint(done):
    name, method, e, _, _ = done
    known = {id(t) for m in (*e.modules.values(), *e.banks.values(), *e.frozen_modules) for t in _tensors(m)}
    known |= {id(t) for t in e.buffers.values()}
    before = {k: v.clone() for k, v in vars(method).items() if isinstance(v, torch.Tensor) and id(v) not in known}
    method.phases(15)[0].step(e)
    for k, v in before.items():
        assert torch.equal(v, getattr(method, k)), f"{name}.{k} changes and is not registered"
    for k, v in vars(method).items():
        if isinstance(v, torch.nn.Module):
            stray = [n for n, t in v.named_parameters() if id(t) not in known]
            assert not stray, f"{name}.{k} holds {stray}, which no checkpoint has"


def _tensors(module):
    return [*module.parameters(), *module.buffers()]


def test_what_is_delivered_and_shown(done):
    _, method, e, outcome, _ = done
    assert isinstance(method.deliver(), Network)
    images = method.synthesise(e, 20)
    assert images.shape == (20, 1, 8, 8)
    assert outcome.ema.network(images).shape == (20, 4)


@pytest.mark.parametrize("name", NAMES)
def test_the_trial_of_a_budget_goes_through_every_phase(name):
    e = engine()
    trial = budget.measure(lambda: make(name), e.given, Hardware("cpu", "32", False), 0, patience=0.1)
    phases = make(name).phases(15)
    assert trial.seconds.keys() >= {p.name for p in phases}
    assert all(s > 0 for s in trial.seconds.values())
    assert trial.total(make(name), 1000) > trial.total(make(name), 100) > 0
    make(name).setup(e)
    assert trial.bank >= sum(b.pixels.numel() + b.labels.nbytes + b.logits.nbytes for b in e.banks.values())


def test_the_trial_scores_with_the_networks_where_the_engine_has_placed_them():
    given, asked = engine().given, []

    def watch(placed):
        asked.append((placed.teacher is given.teacher, next(placed.student.parameters()).dtype))
        return 2.0, 1.5

    trial = budget.measure(lambda: make("noise"), given, Hardware("cpu", "64", False), 0, patience=0.1, watch=watch)
    assert (trial.watching, trial.scoring) == (2.0, 1.5)
    assert asked == [(False, torch.float64)]


@pytest.mark.slow
def test_the_control_keeps_its_generators_images_whole_as_the_methods_do(tmp_path):
    margins = {
        name: [b.margin for b in go(name, tmp_path / name)[1].banks.values()] for name in ("random_generator", "hidfd")
    }
    assert margins["random_generator"][0] > 1
    assert margins["hidfd"] == [0.0]  # a GAN's tanh ends at black and white


@pytest.mark.parametrize("name", ["cpsc", "cgdd", "hidfd", "cgdd two_stage", "cpsc unconditional", "ddad"])
def test_preset_labels_are_counted_where_there_are_any(name, tmp_path):
    method, e, _, _ = go(name, tmp_path)
    modes = [m.training for m in e.modules.values()]
    e.begin(e.iteration, 1.0)
    drawn = e.drawn
    found = obeyed(method, e, 100)
    assert e.drawn == drawn  # the student has not seen these
    assert [m.training for m in e.modules.values()] == modes
    if name in ("cpsc unconditional", "ddad"):
        assert found == {}
        return
    images, shares = 0, {}
    e.begin(e.iteration, 1.0)  # the same draws again
    y, said = [], []
    while images < 100:
        batch, labels = method.preset(e)
        y.append(labels)
        said.append(e.given.teacher(batch).argmax(1))
        images += len(batch)
    y, said = torch.cat(y), torch.cat(said)
    for c in range(4):
        shares[c] = (said[y == c] == c).float().mean().item()
    assert found["preset"]["images"] == images
    assert found["preset"]["share"] == pytest.approx((said == y).float().mean().item())
    assert found["preset"]["worst"]["share"] == pytest.approx(min(shares.values()))
    assert shares[found["preset"]["worst"]["class"]] == min(shares.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_bf16_trains(name, tmp_path):
    _, _, _, log = go(name, tmp_path, e=engine(precision="bf16"))
    assert all(torch.isfinite(torch.tensor(v)) for _, row in log.rows for v in row.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_of_itself(name):
    cls = methods.get(name)
    assert cls.paper
    assert cls.needs <= {"bn", "input_gradient", "linear_head", "sides", "doublings", "real", "collected", "transfer"}
    assert "classification" in cls.tasks
    assert cls.shows in ("fresh", "stored", "real")
    for setting in settings_of(cls):
        assert setting.meaning, f"{name}: nothing explains {setting.name}"


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_of_another_type_is_refused(name):
    for setting, kind in types_of(methods.get(name)).items():
        if "str" in str(kind):  # a name, which may be any text
            continue
        with pytest.raises(InputError, match=setting):
            build_method({"name": name, setting: "nonsense"})


@pytest.mark.parametrize("name", NAMES)
def test_what_makes_a_run_large_is_marked_and_its_small_value_is_allowed(name):
    cls = methods.get(name)
    assert "batch_size" in marked(cls, Batch)
    assert "batch_size" in marked(cls, Small)
    method = small(cls)
    check_ranges(method)
    large = {f.name: f.default for f in fields(cls) if type(f.default) is int and f.default > 50}
    assert all(getattr(method, k) < v for k, v in large.items() if k not in NOT_LARGE), large


def test_a_nan_stops_with_the_name_of_the_term_and_keeps_the_last_good_state(tmp_path):
    e = engine(steps=100)
    method = make("ddad")
    method.setup(e)
    step = method.step

    def poisoned(engine):
        if engine.iteration == 4:
            with torch.no_grad():
                next(iter(engine.modules["student"].parameters())).fill_(float("nan"))
        step(engine)

    method.step = poisoned
    with pytest.raises(DivergedError, match="student/discrepancy"):
        run(method, e, Checkpoints(tmp_path), Silent(), Cadence(log=50, checkpoint_steps=2))
    fresh = engine(steps=100)
    good = make("ddad")
    good.setup(fresh)
    state = Checkpoints(tmp_path).load({})
    assert state["progress"]["iteration"] == 4
    fresh.load(state["engine"])
    assert all(torch.isfinite(t).all() for t in fresh.modules["student"].parameters())


# ---------------------------------------------------------------- the same contract where the teacher gives maps

DENSE = [name for name in NAMES if "segmentation" in methods.get(name).tasks]
SWITCHES = {
    "ddad alpha 0": {"alpha": 0.0}, "ddad large": {"size": "large"}, "ddad replay": {"replay": 0.4, "crop": 1},
    "ddad priors": {"w_onehot": 0.1, "w_balance": 0.1}, "real_data labels": {"loss": "labels", "flip": True},
}  # fmt: skip


def test_which_methods_take_maps():
    assert DENSE == ["ddad", "noise", "random_generator", "real_data"]
    assert {n for n in NAMES if n not in DENSE} == {
        "cgdd", "cmi", "collected_only", "cpsc", "dafl", "deep_inversion", "fast", "hidfd", "nayer", "soft_target",
        "transfer", "zskt",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DENSE, *SWITCHES])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_maps_are_learnt_too(name, precision, tmp_path):
    e = dense_engine(precision=precision)
    teacher, student = copy.deepcopy(e.given.teacher), copy.deepcopy(e.given.student)
    method, e, outcome, log = go(name, tmp_path, e=e, **SWITCHES.get(name, {}))
    assert e.task.name == "segmentation"
    assert same(teacher, e.given.teacher)
    assert not same(student, method.deliver())
    assert all(torch.isfinite(torch.tensor(v)) for _, row in log.rows for v in row.values())
    images = method.synthesise(e, 20)
    assert images.shape == (20, 1, 16, 32)
    assert outcome.ema.network(images.float()).shape == (20, 4, 16, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddad", "real_data"])
def test_compiled_steps_learn_maps_as_plain_ones_do(name, tmp_path, monkeypatch):
    """By a backend that runs what was traced: the code that the compiler makes of it takes a minute more."""
    traced, found = [], {}

    def backend(graph, _inputs):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for compiled in (False, True):
        assert not traced
        e = dense_engine(steps=6, precision="64", compile=compiled)
        short = {"student_steps": 2} if name == "ddad" else {}
        log = go(name, tmp_path / str(compiled), e=e, **short)[3]
        found[compiled] = {k: v for _, row in log.rows for k, v in row.items() if "/" in k}
    assert traced  # the first iteration of a phase is counted, and not compiled
    assert found[False].keys() == found[True].keys()
    assert found[False]
    # Batch norm adds in another order: 1e-15 an operation in float64. What Adam makes of gradients that are zero but
    # for that, 1e-10 a step, is in weights before a batch norm, which does not see them.
    assert all(found[True][k] == pytest.approx(v, rel=1e-8, abs=1e-10) for k, v in found[False].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddad", "ddad replay", "real_data"])
def test_a_stopped_and_resumed_run_on_maps_has_the_same_bits(name, tmp_path):
    whole, *_ = go(name, tmp_path / "whole", e=dense_engine(), **SWITCHES.get(name, {}))

    class Halt(Exception):
        pass

    class Halting(Silent):
        def progress(self, done, values):
            if done == 2:
                raise Halt

    e, method = dense_engine(), make(name, **SWITCHES.get(name, {}))
    method.setup(e)
    with pytest.raises(Halt):
        run(method, e, Checkpoints(tmp_path / "cut"), Halting(), Cadence(log=1, checkpoint_steps=1))
    resumed, *_ = go(name, tmp_path / "cut", e=dense_engine(), resume=True, **SWITCHES.get(name, {}))
    assert same(whole.deliver(), resumed.deliver())
