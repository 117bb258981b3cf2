"""What each control does: every table is read beside them."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from helpers.prepared import RAMP, fed_to, images, mirrored, prepared

from dreamstill.engine.schedules import constant, cosine
from dreamstill.losses.distillation import kl
from dreamstill.methods.controls.collected_only import CollectedOnly
from dreamstill.methods.controls.noise import Noise
from dreamstill.methods.controls.random_generator import RandomGenerator
from dreamstill.methods.controls.real_data import RealData
from dreamstill.methods.controls.transfer import Transfer
from dreamstill.networks.pixels import to_float

pytestmark = pytest.mark.filterwarnings("ignore:the teacher takes none")


def test_untrained_generators_are_drawn_anew_and_add_to_the_bank():
    method, engine = prepared(RandomGenerator, every=3)
    drawn = []
    for iteration in range(7):
        engine.begin(iteration, 0.0)
        method.step(engine)
        drawn.append(engine.modules["generator"].linear.weight.clone())
    changed = [not torch.equal(a, b) for a, b in pairwise(drawn)]
    assert changed == [False, False, True, False, False, True]
    assert method.stored.added == 3 * 16


def test_noise_has_the_teachers_mean_and_deviation():
    method, engine = prepared(Noise)
    x = method.synthesise(engine, 2000)
    assert (x.mean().item(), x.std().item()) == pytest.approx((0.3, 0.4), abs=0.01)


@pytest.mark.parametrize("cls", [Noise, RandomGenerator, RealData, Transfer])
def test_they_distil_by_kl_at_their_temperature_along_a_cosine(cls):
    method, engine = prepared(cls, tau=3.0)
    x = to_float(images(16))
    method.student.eval()
    with torch.no_grad():
        found = method.loss_s(x, torch.zeros(16, dtype=torch.long)) if cls is RealData else method.loss_s(x)
        expected = kl(method.student(x), engine.given.teacher(x), 3.0)
    assert list(found.values()) == [pytest.approx(expected.item())]
    assert method.opt_s.schedule is cosine


def test_noise_is_learnt_by_the_distance_and_along_the_course_asked_for():
    method, engine = prepared(Noise, loss="l1", schedule="constant")
    x = to_float(images(16))
    method.student.eval()
    with torch.no_grad():
        expected = F.l1_loss(method.student(x), engine.given.teacher(x))
    assert method.loss_s(x)["l1"].item() == pytest.approx(expected.item())
    assert method.opt_s.schedule is constant


def test_labels_stay_with_their_image_and_are_what_is_learnt():
    method, engine = prepared(RealData, loss="labels", crop=0)
    method.pixels, method.labels = images(4).repeat(12, 1, 1, 1), torch.arange(4).repeat(12)
    fed = fed_to(method)
    method.step(engine)
    ((x, y),) = fed
    assert torch.equal((x * 255).round().to(torch.uint8), images(4)[y])
    method.student.eval()
    terms = method.loss_s(x, y)
    assert list(terms) == ["cross_entropy"]
    assert torch.allclose(terms["cross_entropy"], F.cross_entropy(method.student(x), y))


def test_a_stored_set_is_learnt_by_the_distance_asked_for():
    method, _ = prepared(Transfer, loss="l1")
    x, t = to_float(images(16)), torch.randn(16, 4)
    method.student.eval()
    with torch.no_grad():
        found = method.loss_s(x, t)["distance"].item()
        assert found == pytest.approx((method.student(x) - t).abs().mean().item())


def test_the_collected_images_that_the_teacher_is_surest_of_are_kept():
    method, engine = prepared(CollectedOnly, keep=20)
    with torch.no_grad():
        sure = engine.given.teacher(to_float(images())).softmax(1).amax(1)
    assert torch.equal(method.chosen, sure.argsort(descending=True, stable=True)[:20])


@pytest.mark.parametrize("cls", [RealData, Transfer])
@pytest.mark.parametrize("flip", [True, False])
def test_images_are_mirrored_only_on_request(cls, flip):
    method, engine = prepared(cls, crop=1, flip=flip)
    method.pixels = (RAMP * 255).to(torch.uint8)
    if cls is RealData:
        method.labels = method.labels[:16]
    fed = fed_to(method)
    method.step(engine)
    assert bool(mirrored(fed[0][0]).any()) == flip


def test_resized_crops_stay_inside_the_image_and_shifted_ones_do_not():
    means = {}
    for how in ("crop", "resized"):
        method, engine = prepared(CollectedOnly, augmentation=how, crop=4)
        means[how] = method.learner.augmented(engine, torch.ones(16, 1, 8, 8)).mean().item()
    assert means["resized"] == pytest.approx(1)
    assert means["crop"] < 0.9


def test_the_aligned_students_rate_falls_at_the_released_epochs():
    schedule = prepared(CollectedOnly)[0].learner.opt.schedule
    assert [schedule(p) for p in (0.62, 0.63, 0.76, 0.88)] == pytest.approx([1, 0.1, 0.01, 0.001])
