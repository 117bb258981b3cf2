"""Outputs that are bounded, or no function of the image alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dreamstill.errors import InputError
from dreamstill.networks.network import Network, logits_of
from dreamstill.networks.output_check import check_output, output_kind

FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}


class Body(nn.Module):
    """Small, and what its features and its output go through is given."""

    def __init__(self, inside=lambda net, x: x, end=lambda net, y: y, k=4, norm=None):
        super().__init__()
        torch.manual_seed(1)
        self.convolution, self.norm = nn.Conv2d(1, 6, 3, padding=1), norm or nn.Identity()
        self.linear, self.inside, self.end = nn.Linear(6 * 64, k), inside, end
        self.register_buffer("centre", torch.zeros(6))

    def forward(self, x):
        x = self.norm(self.convolution(x)).relu()
        return self.end(self, self.linear(self.inside(self, x).flatten(1)))


def wrap(module, **facts):
    return Network(module, **{**FACTS, **facts})


def moving(net, x):
    net.centre += 0.1 * (x.mean((0, 2, 3)) - net.centre)
    return x


def drifting(net, x):
    net.calls = getattr(net, "calls", 0) + 1
    return x * (1 + 0.01 * net.calls)


class Hidden(Body):
    """Its dropout is in a plain list, where eval() does not find it."""

    def __init__(self):
        super().__init__(lambda net, x: net.layers[0](x))
        self.layers = [nn.Dropout(0.2)]


class Stubborn(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Body(lambda net, x: F.dropout(x, 0.1)), "differently each time.*F.dropout training=self.training"),
        (Body(lambda net, x: F.dropout2d(x, 0.3)), "differently each time"),
        (Body(lambda net, x: x + 0.05 * torch.randn_like(x)), "differently each time"),
        (Hidden(), "differently each time.*nn.ModuleList"),
        (Body(norm=nn.Sequential(Stubborn(0.2))), "differently each time.*norm.0 stay on"),
        (Body(drifting), "differently each time.*kept from call to call"),
    ],
)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_answers_that_change_from_call_to_call(module, words, role):
    with pytest.raises(InputError, match=f"the {role} Body|Hidden") as caught:
        check_output(wrap(module), role)
    assert __import__("re").search(words, str(caught.value))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Body(norm=nn.BatchNorm2d(6, track_running_stats=False)), "norm normalise by the batch.*running statistics"),
        (Body(lambda net, x: x - x.mean(0)), "computes over the batch dimension"),
        (Body(lambda net, x: F.batch_norm(x, None, None, training=True)), "other images are in its batch"),
        (Body(lambda net, x: x * torch.arange(1, len(x) + 1).view(-1, 1, 1, 1)), "other images are in its batch"),
        (Body(lambda net, x: F.layer_norm(x, x.shape)), "other images are in its batch"),
    ],
)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_answers_that_depend_on_the_other_images(module, words, role):
    with pytest.raises(InputError, match=words):
        check_output(wrap(module), role)


def test_buffers_that_change_in_eval_mode():
    with pytest.raises(InputError, match="changes centre when it is run in eval mode"):
        check_output(wrap(Body(moving)))


@pytest.mark.parametrize(
    "module",
    [
        Body(), Body(norm=nn.BatchNorm2d(6)), Body(norm=nn.InstanceNorm2d(6)), Body(norm=nn.GroupNorm(2, 6)),
        Body(lambda net, x: F.dropout(x, 0.5, net.training)), Body(end=lambda net, y: y.relu()),
        Body(end=lambda net, y: y / 100), Body(end=lambda net, y: y * 1e4), Body(end=lambda net, y: y.bfloat16()),
    ],
)  # fmt: skip
def test_functions_of_the_image_pass(module):
    check_output(wrap(module), "student")


# ---------------------------------------------------------------- bounded outputs


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (torch.sigmoid, "sigmoid", "as of a sigmoid.*remove its last sigmoid"),
        (F.hardsigmoid, "sigmoid", "as of a sigmoid"),
        (lambda y: (y.tanh() + 1) / 2, "sigmoid", "as of a sigmoid"),
        (torch.tanh, "tanh", "remove its last tanh"),
        (lambda y: 100 * y.softmax(1), "scaled_probabilities", "scaled probabilities"),
        (lambda y: -y.softmax(1), "scaled_probabilities", "scaled probabilities"),
        (lambda y: torch.cat([y[:, :2].softmax(1), y[:, 2:].softmax(1)], 1), "joined_probabilities", "several softmax"),
        (
            lambda y: torch.cat([y[:, :2].log_softmax(1), y[:, 2:].log_softmax(1)], 1),
            "log_probabilities",
            "log_softmax",
        ),
        (lambda y: y.sigmoid()[:, :, None, None].expand(-1, -1, 8, 8), "sigmoid", "as of a sigmoid"),
    ],
)
@pytest.mark.parametrize("gradient", [True, False])
def test_bounded_outputs_are_no_logits(end, kind, words, gradient):
    logits = 2 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    assert kind == "tanh" or output_kind(end(logits)) == kind
    answer = lambda net, y: end(y if gradient else y.detach())  # noqa: E731
    if gradient or kind != "tanh":
        with pytest.raises(InputError, match=words):
            check_output(wrap(Body(end=answer)))


def test_a_fresh_student_of_two_classes_whose_logits_lie_between_0_and_1_passes():
    """Small logits around the biases: no row says more than a sigmoid's would, but a linear layer made them."""
    body = Body(k=2)
    nn.init.normal_(body.linear.weight, std=1e-3)
    body.linear.bias.data = torch.tensor([0.4, 0.6])
    network = wrap(body, num_classes=2)
    with torch.no_grad():
        assert (network(torch.rand(9, 1, 8, 8)) - 0.5).abs().max() < 0.5
    check_output(network, "student")


# ---------------------------------------------------------------- shapes and wrappings


def test_a_map_of_one_pixel_is_a_row_of_logits():
    network = wrap(nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1)))
    check_output(network)
    assert network(torch.rand(3, 1, 8, 8)).shape == (3, 4)
    single = Network(nn.Conv2d(1, 4, 1), num_classes=4, image_size=1, channels=1)
    assert single(torch.rand(3, 1, 1, 1)).shape == (3, 4, 1, 1)  # of images of one pixel it is a map


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"pred": torch.zeros(1), "aux": 3}, "returned a mapping with 'pred', 'aux'"),
        ({}, "a mapping with nothing in it"),
        ((torch.zeros(1), torch.zeros(1)), "returned tuple of length 2"),
        (None, "returned NoneType"),
    ],
)
def test_what_holds_no_logits_is_named(output, words):
    with pytest.raises(InputError, match=words):
        logits_of(output)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"mean": [76.5]}, r"mean is \[76.5\]: every value must be between 0 and 1.*by 255"),
        ({"mean": [-0.5]}, "between 0 and 1"),
        ({"mean": [float("nan")]}, "must be finite"),
        ({"std": [94.35]}, "std is .*at most 1.*by 255"),
        ({"std": [0.0]}, "must be positive"),
        ({"std": [float("nan")]}, "must be finite"),
        ({"std": None}, "mean is given and std is not"),
        ({"mean": None}, "std is given and mean is not"),
    ],
)
def test_mean_and_std_that_no_images_have(facts, words):
    with pytest.raises(InputError, match=words):
        wrap(nn.Identity(), **facts)


@pytest.mark.parametrize("side", [64, 28])
def test_the_size_that_a_network_takes_is_found(side):
    module = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 4))
    with pytest.raises(InputError, match=rf"it takes images of {side}x{side}, so give --image-size {side}"):
        check_output(wrap(module))
    with pytest.raises(InputError, match="the image size it was trained on"):
        check_output(wrap(nn.Sequential(nn.Flatten(), nn.Linear(777, 4))))
