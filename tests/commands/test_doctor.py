import copy
import io
import json
from contextlib import redirect_stdout

import pytest
import torch
from helpers.networks import tiny_network
from sklearn.linear_model import LinearRegression
from torch import nn
from torch.nn import functional as F

from dreamstill import methods
from dreamstill.commands import doctor
from dreamstill.data.load import NORMALISATION, channel_stats, load_images
from dreamstill.errors import InputError
from dreamstill.networks import builtin, normalisation
from dreamstill.networks.network import Network
from dreamstill.networks.normalisation import nonnegative_least_squares
from dreamstill.networks.output_check import check_output, output_kind
from dreamstill.runs import requirements

MEAN, STD = NORMALISATION["digits"]


class Ending(nn.Module):
    """A small network whose output goes through a function."""

    def __init__(self, end=lambda y: y, k=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.linear = nn.Linear(6 * 64, k)
        self.end = end

    def forward(self, x):
        return self.end(self.linear(self.body(x).flatten(1)))


def wrap(module, num_classes=4, channels=1, image_size=8, **facts):
    return Network(module, num_classes=num_classes, channels=channels, image_size=image_size, **facts)


def ending(end, **facts):
    torch.manual_seed(0)
    return wrap(Ending(end), **facts)


def train_on_digits(name, image_size=8, mean=MEAN, std=STD, steps=120, **kwargs):
    torch.manual_seed(0)
    images = load_images("digits", "train", image_size=image_size)
    pixels, labels = images.pixels.float() / 255, images.labels
    module = builtin.build(name, num_classes=10, channels=1, image_size=image_size, **kwargs)
    network = Network(module, num_classes=10, image_size=image_size, channels=1, mean=mean, std=std, name=name)
    opt = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    network.train()
    for _ in range(steps):
        index = torch.randint(len(pixels), (128,))
        loss = F.cross_entropy(network(pixels[index]), labels[index])
        opt.zero_grad()
        loss.backward()
        opt.step()
    network.eval()
    with torch.no_grad():
        assert (network(pixels).argmax(1) == labels).float().mean() > 0.85
    return network


@pytest.fixture(scope="module")
def standardised():
    return train_on_digits("convnet", widths=(8, 16))


@pytest.fixture(scope="module")
def unscaled():
    return train_on_digits("convnet", mean=(0.0,), std=(1.0,), widths=(8, 16))


def claiming(network, mean, std):
    other = copy.deepcopy(network)
    other.mean, other.std = torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
    return other


# ---------------------------------------------------------------- output_kind


@pytest.mark.parametrize("k", [2, 10, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_kinds_are_told_apart_in_every_precision(k, dtype, scale):
    logits = scale * torch.randn(16, k, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    assert output_kind(logits.to(dtype)) == "logits"
    assert output_kind(logits.softmax(1).to(dtype)) == "probabilities"
    assert output_kind(logits.log_softmax(1).to(dtype)) == "log_probabilities"
    # Computed in half precision, then cast up, as the adapter does.
    assert output_kind(logits.softmax(1).to(dtype).float()) == "probabilities"


def test_logits_that_come_near_by_chance_stay_logits():
    assert output_kind(torch.tensor([[0.2509765625, 0.75]])) == "logits"  # one image, sum 1.001
    assert output_kind(torch.tensor([[0.25, 0.751953125]]).repeat(8, 1)) == "logits"  # constant rows in bf16
    assert output_kind(torch.tensor([[0.3, 0.7], [0.3, 0.9]])) == "logits"  # one row of the two
    assert output_kind(torch.tensor([[0.3, 0.7], [-0.2, 1.2]])) == "logits"  # sums 1, outside [0, 1]
    assert output_kind(torch.zeros(8, 4)) == "logits"
    assert output_kind(torch.tensor([[0.3, 0.7]])) == "probabilities"
    assert output_kind(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == "probabilities"


# ---------------------------------------------------------------- check_output


def map_output(y):
    return y[:, :, None, None].expand(-1, -1, 8, 8)


@pytest.mark.parametrize(
    ("end", "facts", "words"),
    [
        (lambda y: y.softmax(1), {}, "returns probabilities, expected logits: remove its last softmax"),
        (lambda y: y.log_softmax(1), {}, "returns log-probabilities.*last log_softmax"),
        (lambda y: y[:, :, None], {}, "2 x 4 x 1 for 2 images.*or for segmentation a map"),
        (lambda y: map_output(y.softmax(1)), {}, "returns probabilities"),
        (lambda y: map_output(y.log_softmax(1)), {}, "returns log-probabilities"),
        (map_output, {"num_classes": 7}, "4 outputs per image and num_classes is 7"),
        (lambda y: y.mean(), {}, "a single number for 2 images"),
        (lambda y: y[:1], {}, "1 x 4 for 2 images"),
        (lambda y: y, {"num_classes": 7}, "4 outputs per image and num_classes is 7"),
        (lambda y: y, {"channels": 3}, "2 images of 3 x 8 x 8.*3 channels"),
        (lambda y: y, {"image_size": 9}, "2 images of 1 x 9 x 9.*shapes cannot be multiplied"),
        (lambda y: y.view(2, 4), {}, "5 images.*any batch size"),
        (lambda y: [y], {}, "returned list"),
        (lambda y: y / 0, {}, "NaN or infinite"),
    ],
)  # fmt: skip
def test_bad_outputs_are_refused_in_one_sentence(end, facts, words):
    with pytest.raises(InputError, match=words) as caught:
        check_output(ending(end, **facts))
    assert "the teacher" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nan_weights_are_refused():
    network = tiny_network((4, 6), 0)
    network.module.linear.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"the student convnet has NaN or infinite values in linear.weight"):
        check_output(network, role="student")


@pytest.mark.parametrize("end", [lambda y: y, lambda y: {"logits": y}, lambda y: {"out": y}, lambda y: y.bfloat16()])
def test_good_outputs_pass(end):
    check_output(ending(end))


@pytest.mark.parametrize(
    "look", [check_output, requirements.offers, normalisation.normalisation_check, doctor.examine],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_nothing_of_the_network_changes(look):
    network = tiny_network((4, 6), 0).train()
    network.module.blocks[0].eval()  # a frozen block inside a network in training
    modes = [m.training for m in network.modules()]
    wants = [p.requires_grad for p in network.parameters()]
    before = copy.deepcopy(network.state_dict())
    stream = torch.get_rng_state()
    look(network)
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == wants
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert torch.equal(torch.get_rng_state(), stream)


class EvalOnly(Ending):
    """Refuses to be run in training mode."""

    def forward(self, x):
        assert not self.training
        return super().forward(x)


def test_a_teacher_left_in_training_mode_is_looked_at_in_eval_mode():
    report = doctor.examine(wrap(EvalOnly()).train())
    assert report["problems"] == []
    assert report["offers"] == ["bn", "doublings", "input_gradient", "linear_head", "sides"]


# ---------------------------------------------------------------- offers and missing


def test_offers_of_networks():
    everything = {"bn", "doublings", "input_gradient", "linear_head", "sides"}
    assert requirements.offers(tiny_network((4, 6), 0)) == everything
    assert requirements.offers(ending(lambda y: {"logits": y})) == everything
    assert requirements.offers(ending(lambda y: 2 * y)) == everything - {
        "linear_head"
    }  # the linear layer is not the end
    assert requirements.offers(ending(lambda y: y.softmax(1))) == everything - {"linear_head"}
    assert requirements.offers(ending(lambda y: y.detach())) == everything - {"input_gradient"}
    assert requirements.offers(ending(lambda y: y.round())) == {"bn", "doublings", "sides"}
    assert requirements.offers(ending(lambda y: y, channels=3)) == {
        "bn",
        "doublings",
        "sides",
    }  # its forward pass fails
    lenet = builtin.build("lenet5", num_classes=10, channels=1, image_size=32)
    assert requirements.offers(wrap(lenet, 10, image_size=32)) == everything - {"bn"}
    assert requirements.offers(tiny_network((4,), 0, image_size=10)) == everything - {"sides"}


def test_sides_that_no_generator_makes():
    odd = tiny_network((4,), 0, image_size=10)
    (half,) = requirements.missing(methods.get("ddad"), odd)
    assert half.startswith("images whose sides are multiples of 4 (this teacher takes 10x10 ones; 12x12 would do: ")
    assert "soft_target" in half
    assert requirements.missing(methods.get("soft_target"), odd) == []
    found = {row["name"]: row["fits"] for row in doctor.examine(odd)["methods"]}
    assert not any(found[name] for name in ("ddad", "cpsc", "cgdd", "random_generator"))
    assert found["noise"]


def test_batch_norm_without_statistics_is_not_offered():
    module = Ending()
    module.body[1] = nn.BatchNorm2d(6, track_running_stats=False)
    assert "bn" not in requirements.offers(wrap(module))


def test_a_linear_layer_that_never_runs_is_no_head():
    module = Ending()
    module.unused = nn.Linear(3, 4)
    assert "linear_head" not in requirements.offers(wrap(module))


def test_missing_says_what_to_do_and_names_only_methods_that_exist():
    lenet = wrap(builtin.build("lenet5", num_classes=10, channels=1, image_size=32), 10, image_size=32)
    (half,) = requirements.missing(methods.get("ddad"), lenet)
    assert half.startswith("batch-norm layers with running statistics (this teacher has none: take ")
    assert "random_generator" not in half  # a control is a yardstick and no advice
    named = half.split("take ")[1].rstrip(")").split(" or ")
    assert {name.split()[0] for name in named} <= set(methods.names())
    assert requirements.missing(methods.get("real_data"), lenet) == []  # real images are not the teacher's to offer
    assert requirements.missing(methods.get("ddad"), tiny_network((4,), 0)) == []

    class Demanding:
        needs = frozenset({"bn", "input_gradient", "linear_head", "collected"})
        tasks = frozenset({"classification"})

    lacking = requirements.missing(Demanding, lenet)
    assert len(lacking) == 1
    assert "ddad with alpha 0" in lacking[0]
    assert [text.split(" ")[0] for text in requirements.missing(Demanding, ending(lambda y: y.round()))] == ["a", "a"]


# ---------------------------------------------------------------- normalisation


@pytest.mark.parametrize("signs", [False, True], ids=["variances", "any_numbers"])
def test_weights_without_negatives_fit_as_well_as_scikit_learns(signs):
    torch.manual_seed(0)
    clipped = 0
    for rows, columns in ((1, 1), (3, 6), (8, 10), (40, 10)) * 25:
        a = (torch.randn if signs else torch.rand)(rows, columns, dtype=torch.float64)
        a[:, -1] = a[:, 0]  # as grey images and channels apart are, where there is one channel
        ones = torch.ones(rows, dtype=torch.float64)
        x = nonnegative_least_squares(a, ones)
        theirs = LinearRegression(positive=True, fit_intercept=False).fit(a.numpy(), ones.numpy()).predict(a.numpy())
        assert bool((x >= 0).all())
        assert float((a @ x - ones).norm()) == pytest.approx(float((torch.from_numpy(theirs) - ones).norm()), abs=1e-9)
        clipped += int((x == 0).sum())
    assert clipped > 100


def test_the_right_claim_is_plausible_and_the_images_are_found(standardised, unscaled):
    images = load_images("digits", "train", image_size=8)
    (mean,), (std,) = channel_stats(images)
    for network in (standardised, unscaled):
        found = normalisation.normalisation_check(network)
        assert found["verdict"] == "plausible"
        assert found["layer"] == "blocks.0.1"
        assert found["implied_mean"][0] == pytest.approx(mean, abs=0.07)
        assert found["implied_std"][0] == pytest.approx(std, rel=0.15)
    assert normalisation.normalisation_check(unscaled)["seen_mean"][0] == pytest.approx(mean, abs=0.07)
    assert abs(normalisation.normalisation_check(standardised)["seen_mean"][0]) < 0.2


def test_wrong_claims_for_a_standardised_teacher(standardised):
    raw = normalisation.normalisation_check(claiming(standardised, [0.0], [1.0]))
    assert raw["verdict"] == "implausible"
    assert "standardised by their own mean and std" in raw["why"]
    bytes_units = normalisation.normalisation_check(claiming(standardised, [77.9], [95.8]))
    assert bytes_units["verdict"] == "implausible"
    assert bytes_units["contrast"] is None
    assert normalisation.normalisation_check(claiming(standardised, [0.0], [1 / 255]))["verdict"] == "implausible"
    # Grey with ImageNet's numbers: images of that brightness and contrast exist, so it cannot be told.
    assert normalisation.normalisation_check(claiming(standardised, [0.449], [0.226]))["verdict"] == "plausible"
    # The half convention would need nearly pure black and white.
    half = normalisation.normalisation_check(claiming(standardised, [0.5], [0.5]))
    assert half["verdict"] != "plausible" or "black and white" in half["why"]
    assert half["contrast"] > 0.85


def test_wrong_claims_for_an_unscaled_teacher(unscaled):
    grey = normalisation.normalisation_check(claiming(unscaled, [0.449], [0.226]))
    assert grey["verdict"] == "unknown"
    assert "mean 0, std 1" in grey["would_fit"]
    own = normalisation.normalisation_check(claiming(unscaled, list(MEAN), list(STD)))
    assert own["verdict"] != "plausible" or "cannot be told apart" in own["why"]


def test_a_teacher_of_bytes_is_recognised(unscaled):
    network = copy.deepcopy(unscaled)
    network.module.blocks[0][0].weight.data /= 255  # the same function of pixels of 0 to 255
    found = normalisation.normalisation_check(network)
    assert found["verdict"] == "implausible"
    assert found["would_fit"] == ["pixels of 0 to 255 (mean 0, std 1/255)"]
    assert normalisation.normalisation_check(claiming(network, [0.0], [1 / 255]))["verdict"] == "plausible"


def with_statistics(name, image_size, channels):
    """Statistics of smooth images of mean 0.4 and std 0.2, after a standardisation by 0.5 and 0.25."""
    torch.manual_seed(1)
    module = builtin.build(name, num_classes=10, channels=channels, image_size=image_size)
    network = wrap(module, 10, channels, image_size, mean=[0.5] * channels, std=[0.25] * channels).train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        for _ in range(10):
            small = torch.randn(64, channels, image_size // 4, image_size // 4)
            network(0.4 + 0.2 * F.interpolate(small, scale_factor=4))
    return network.eval()


@pytest.mark.parametrize(
    ("name", "size", "channels", "layer"),
    [
        ("wrn_16_1", 16, 1, "groups.0.0.bn1"),
        ("wrn_16_1", 16, 3, "groups.0.0.bn1"),
        ("lenet5_bn", 32, 1, "conv1.1"),
        ("resnet8", 16, 3, "bn"),
    ],
)
def test_known_images_are_found_through_other_networks(name, size, channels, layer):
    found = normalisation.normalisation_check(with_statistics(name, size, channels))
    assert found["verdict"] == "plausible"
    assert found["layer"] == layer
    assert found["implied_mean"] == pytest.approx([0.4] * channels, abs=0.03)
    assert found["implied_std"] == pytest.approx([0.2] * channels, rel=0.2)


@pytest.mark.slow
def test_a_trained_lenet_and_wide_resnet():
    for name, size, steps in (("lenet5_bn", 32, 60), ("wrn_16_1", 8, 60)):
        network = train_on_digits(name, size, steps=steps)
        assert normalisation.normalisation_check(network)["verdict"] == "plausible", name
        assert normalisation.normalisation_check(claiming(network, [0.0], [1.0]))["verdict"] == "implausible", name


def test_where_nothing_can_be_said():
    def why(network):
        found = normalisation.normalisation_check(network)
        assert found["verdict"] == "unknown"
        return found["why"]

    assert "no batch-norm layer" in why(wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 4))))
    assert "fresh network" in why(ending(lambda y: y))
    assert "forward pass failed" in why(ending(lambda y: y, channels=3))
    late = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))
    late[2].running_mean.fill_(0.1)
    assert "activation or pooling" in why(wrap(late))
    broken = tiny_network((4,), 0)
    broken.module.blocks[0][1].running_var[0] = torch.nan
    assert "not finite" in why(broken)


# ---------------------------------------------------------------- examine and render


def test_examine_a_good_teacher(standardised):
    report = doctor.examine(standardised, sha256="ab" * 32)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    # conv 1->8, bn, conv 8->16, bn, linear 16->10
    assert report["params"] == (8 * 9 + 8) + 16 + (16 * 8 * 9 + 16) + 32 + (160 + 10)
    assert report["flops"] == 2 * (64 * 8 * 9 + 16 * 16 * 8 * 9 + 160)
    assert (report["bn_layers"], report["bn_names"]) == (2, ["blocks.0.1", "blocks.1.1"])
    assert (report["output"], report["problems"], report["sha256"]) == ("logits", [], "ab" * 32)
    assert report["taps"] == ["blocks.0", "blocks.1"]
    assert report["offers"] == ["bn", "doublings", "input_gradient", "linear_head", "sides"]
    assert {row["name"] for row in report["methods"]} == set(methods.names())
    assert all(row["fits"] and row["why"] == "" for row in report["methods"])
    assert all(report["milliseconds"][what] > 0 for what in ("forward_1", "forward_128", "gradient_128"))


@pytest.mark.parametrize(
    ("network", "kind", "words"),
    [
        (lambda: ending(lambda y: y.softmax(1)), "probabilities", "softmax"),
        (lambda: ending(lambda y: y[:, :, None]), None, "segmentation"),
        (lambda: ending(lambda y: y, channels=3), None, "3 channels"),
    ],
)
def test_examine_reports_a_bad_teacher_and_render_prints_it(network, kind, words):
    report = doctor.examine(network())
    assert report["output"] == kind
    assert len(report["problems"]) == 1
    assert words in report["problems"][0]
    assert not any(row["fits"] for row in report["methods"])
    printed = shown(report)
    assert "problem:" in printed


def shown(report):
    out = io.StringIO()
    with redirect_stdout(out):
        doctor.render(report)
    return out.getvalue()


def test_render_fits_eighty_columns(standardised, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    report = doctor.examine(claiming(standardised, [0.0], [1.0]))
    printed = shown(report)
    assert max(map(len, printed.splitlines())) <= 80
    for word in ("convnet", "[0.0], [1.0]", "implausible", "blocks.0.1", "logits", *methods.names()):
        assert word in printed


def test_times_are_those_of_one_image_of_many_and_of_the_way_back(monkeypatch):
    """By a clock that a forward pass moves by a second an image, and a backward pass by two."""
    now, network = [0.0], tiny_network((2,), 0)

    def pass_time(seconds):
        now[0] += seconds

    network.register_forward_hook(lambda _module, inputs, _out: pass_time(len(inputs[0])))
    network.register_full_backward_hook(lambda _module, grads, _out: pass_time(2 * len(grads[0])))
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: now[0])
    found = doctor._milliseconds(network, 1, True)
    assert [found[what] for what in ("forward_1", "forward_128", "gradient_128")] == [1e3, 128e3, 384e3]


def test_times_of_a_large_network_are_scaled_to_128_images(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: float(next(clock)))  # each pass takes a second
    found = doctor._milliseconds(tiny_network((2,), 0), int(1e12 / 3 / 32), False)
    assert found["measured_batch"] == 32
    assert found["forward_128"] == 4 * found["forward_1"]
