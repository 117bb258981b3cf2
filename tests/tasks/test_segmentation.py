"""What an output a pixel changes: the figures, the losses, what moves with the image."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import dense_network, tiny_network
from torchmetrics.classification import MulticlassJaccardIndex

from dreamstill import tasks
from dreamstill.data.image_set import VOID, ImageSet
from dreamstill.errors import InputError
from dreamstill.networks.network import Network
from dreamstill.tasks.checks import check_batch, check_set
from dreamstill.tasks.classification import Classification
from dreamstill.tasks.segmentation import Segmentation, confusion, scores

TASK = Segmentation()


def drawn(seed, *shape, high=4):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def labelled(n=40, h=6, w=9, k=4):
    labels = drawn(1, n, h, w, high=k).to(torch.uint8)
    labels[drawn(2, n, h, w, high=5) == 0] = VOID
    return labels


def test_the_mean_iou_is_torchmetrics_over_the_whole_set():
    labels, predicted = labelled(), drawn(3, 40, 6, 9).to(torch.uint8)
    metric = MulticlassJaccardIndex(num_classes=4, average="none", ignore_index=VOID)
    for p, y in zip(predicted.split(7), labels.split(7), strict=True):
        metric.update(p.long(), y.long())
    found = scores(confusion(predicted, labels, 4))
    assert found["iou"] == pytest.approx(metric.compute().tolist(), abs=1e-6)
    assert found["miou"] == pytest.approx(float(metric.compute().mean()), abs=1e-6)
    known = labels != VOID
    assert found["pixel_accuracy"] == pytest.approx(float((predicted == labels)[known].double().mean()))


def test_it_is_no_mean_over_images_and_a_class_that_is_nowhere_is_left_out():
    labels = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 0, 0]], [[0, 1, 1, 1]]])
    found = scores(confusion(predicted, labels, 3))
    assert found["iou"] == [4 / 5, 3 / 4, None]
    assert found["miou"] == pytest.approx((4 / 5 + 3 / 4) / 2)  # a mean over images would have 1 in it


def test_void_everywhere_cannot_be_scored():
    with pytest.raises(InputError, match="every pixel of the set is void"):
        scores(confusion(torch.zeros(2, 3, 3), torch.full((2, 3, 3), VOID), 4))


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(InputError, match="labels up to 4 and the network has 4 classes"):
        confusion(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 4), 4)


def test_hard_labels_ignore_void_and_take_weights():
    logits, labels = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)), labelled(3, 5, 6)
    rows = logits.permute(0, 2, 3, 1).flatten(0, 2)
    known = labels.flatten() != VOID
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0])
    expected = F.cross_entropy(rows[known], labels.flatten()[known].long(), weight=weights, label_smoothing=0.1)
    assert float(TASK.label_loss(logits, labels, 0.1, weights)) == pytest.approx(float(expected), rel=1e-5)


def test_a_batch_that_is_all_void_teaches_nothing():
    logits = torch.randn(2, 4, 5, 6, requires_grad=True)
    for weights in (None, torch.ones(4)):
        loss = TASK.label_loss(logits, torch.full((2, 5, 6), VOID, dtype=torch.uint8), 0.1, weights)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert float(loss.detach()) == 0.0
        assert bool((gradient == 0).all())


def test_more_classes_than_a_map_can_hold():
    network = dense_network(3, 0, num_classes=256)
    with pytest.raises(InputError, match="has 256 classes: maps are kept for up to 255"):
        TASK.predict(network, torch.zeros(1, 1, 16, 32))


def position_coded(n=6, h=8, w=12):
    """Images whose values say where they were, and labels that say the same."""
    where = (torch.arange(h * w) % 200).view(1, h, w).expand(n, h, w)
    return where[:, None].float() / 255, where.to(torch.uint8)


def test_crops_and_mirrors_move_image_and_label_alike():
    images, labels = position_coded()
    shift = torch.tensor([[0, 0], [2, 2], [4, 4], [1, 3], [4, 0], [3, 2]])
    flip = torch.tensor([True, False, True, False, True, True])
    moved, maps = TASK.crop_flip(images, labels, shift, flip, 2, (8, 12))
    known = maps != VOID
    assert maps.dtype == torch.uint8
    windows, parts = TASK.crop_flip(images, labels, shift, flip, 0, (4, 8))
    assert torch.equal((windows[:, 0] * 255).round(), parts.float())
    assert parts[1].tolist() == labels[1, 2:6, 2:10].tolist()
    assert torch.equal((moved[:, 0] * 255).round()[known], maps[known].float())
    assert bool((moved[:, 0][~known] == 0).all())
    assert not known.all()
    assert known[1].all()  # the second was not shifted


def test_of_larger_images_a_map_is_scored_whole_and_a_class_in_the_centre():
    pixels, labels = torch.arange(2 * 7 * 8, dtype=torch.uint8).view(2, 1, 7, 8), torch.tensor([0, 1])
    images = ImageSet(pixels, labels, ("a", "b"), "x", "test")
    assert TASK.scored(images, (4, 4)) is images
    centre = Classification().scored(images, (4, 6))
    assert torch.equal(centre.pixels, pixels[:, :, 1:5, 1:7])
    assert centre.labels is labels


def test_rectangles_are_the_same_for_image_and_label():
    images, labels = position_coded()
    smooth = images.clone()
    uniform = torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    _, maps = TASK.resized_crop(smooth, labels, uniform, None, 0.3)
    where = (torch.arange(8 * 12) % 200).view(1, 1, 8, 12).expand(6, 1, 8, 12).float()
    bilinear, _ = TASK.resized_crop(where, labels, uniform, None, 0.3)
    assert maps.dtype == torch.uint8
    assert set(maps.unique().tolist()) <= set(labels.unique().tolist())
    # Codes rise by 12 a row and 1 a column: the nearest pixel is at most half a row and half a column away.
    assert float((bilinear[:, 0] - maps.float()).abs().max()) <= 6.6


def test_a_task_follows_from_the_output():
    assert isinstance(tasks.task_of(tiny_network((4,), 0)), Classification)
    assert isinstance(tasks.task_of(dense_network(4, 0)), Segmentation)
    odd = Network(torch.nn.Flatten(0), num_classes=4, image_size=8, channels=1)
    with pytest.raises(InputError, match="returns 128 for 2 images"):
        tasks.task_of(odd)


def test_the_task_is_found_once_and_kept_by_copies():
    calls = []
    network = dense_network(4, 0)
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    first, again = tasks.task_of(network), tasks.task_of(network)
    of_a_copy = tasks.task_of(copy.deepcopy(network))
    assert all(isinstance(task, Segmentation) for task in (first, again, of_a_copy))
    assert len(calls) == 1


def test_finding_the_task_changes_nothing():
    network = dense_network(4, 0).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.random.get_rng_state()
    tasks.task_of(network)
    assert network.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_sets_and_networks_of_different_tasks_do_not_go_together():
    blank = torch.zeros(2, 1, 16, 32, dtype=torch.uint8)
    maps = ImageSet(blank, labelled(2, 16, 32), tuple("abcd"), "m", "test")
    rows = ImageSet(maps.pixels, torch.tensor([0, 1]), maps.classes, "r", "test")
    check_set(maps, dense_network(4, 0))
    with pytest.raises(InputError, match="m has one label a pixel and convnet is a network for classification"):
        check_set(maps, tiny_network((4,), 0))
    with pytest.raises(InputError, match="r has one label an image and encoder_decoder is a network for segmentation"):
        check_set(rows, dense_network(4, 0))
    with pytest.raises(InputError, match="labels up to 3 and the network has 3 classes"):
        check_set(maps, dense_network(4, 0, num_classes=3))


def test_evaluation_says_all_of_both_networks():
    teacher, student = dense_network(6, 0), dense_network(4, 1)
    images = ImageSet(
        torch.randint(256, (20, 1, 16, 32), dtype=torch.uint8), labelled(20, 16, 32), tuple("abcd"), "m", "test"
    )
    found = TASK.evaluate(student, images, teacher)
    p, t = TASK.predict(student, images.pixels), TASK.predict(teacher, images.pixels)
    assert p.shape == (20, 16, 32)
    assert p.dtype == torch.uint8
    assert found["agreement"] == pytest.approx(float((p == t).double().mean()))
    assert found["miou"] == TASK.headline_of(p, images.labels, 4)
    assert found["teacher"]["miou"] == TASK.headline_of(t, images.labels, 4)
    assert torch.tensor(found["confusion"]).sum() == (images.labels != VOID).sum()
    with pytest.raises(InputError, match="teacher and student have 3 and 4 classes"):
        TASK.evaluate(student, images, dense_network(4, 0, num_classes=3))


class Pooled(torch.nn.Module):
    """As DeepLab's image pooling: a batch norm on one value a channel and image."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4)
        self.pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(4, 4, 1))
        self.pooled_norm = torch.nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return {"out": x + self.pooled_norm(self.pooled(x))}


def test_one_image_cannot_train_an_image_pooling_batch_norm():
    network = Network(Pooled(), num_classes=4, image_size=(16, 32), channels=1)
    with pytest.raises(InputError, match=r"batch_size is 1 and Pooled .*\(pooled_norm\).*at least 2"):
        check_batch(network, 1)
    check_batch(network, 2)
    check_batch(dense_network(4, 0), 1)


def test_a_classifiers_hard_labels_take_smoothing_and_weights():
    logits, labels, w = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1.0, 5.0, 0.5, 2.0])
    expected = F.cross_entropy(logits, labels, weight=w, label_smoothing=0.3)
    assert float(Classification().label_loss(logits, labels, 0.3, w)) == pytest.approx(float(expected))


def test_the_images_compared_are_evenly_taken_from_the_set(monkeypatch):
    pixels = torch.arange(26, dtype=torch.uint8).view(26, 1, 1, 1).expand(26, 1, 16, 32).contiguous()
    images = ImageSet(pixels, torch.zeros(26, 16, 32, dtype=torch.uint8), tuple("abcd"), "m", "test")
    shown = []
    monkeypatch.setattr(
        "dreamstill.tasks.class_maps.comparison_sheet", lambda p, *_: shown.extend(p[:, 0, 0, 0].tolist())
    )
    Segmentation().comparison(images, [("student", dense_network(4, 0))])
    assert shown == [0, 5, 10, 15, 20, 25]
