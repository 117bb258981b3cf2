import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dreamstill.errors import InputError
from dreamstill.networks import builtin
from dreamstill.networks.builtin.grey_convolution import GreyConv2d
from dreamstill.networks.builtin.halving_pool import WIDE, HalvingPool
from dreamstill.networks.builtin.residual import WideBlock


def build(name, **kwargs):
    return builtin.build(name, num_classes=10, channels=1 if "lenet" in name else 3, **kwargs)


# Parameters from closed formulas or the literature; MACs (millions) as the papers and DFAD's table print them.
@pytest.mark.parametrize(
    ("name", "params", "mmacs"),
    [
        ("lenet5", 61_706, 0.4165),
        ("lenet5_half", 15_738, 0.1337),
        ("lenet5_bn", 61_706 + 2 * (6 + 16 + 120), 0.4165),
        ("resnet18", 11_173_962, 555.4),
        ("resnet34", 21_282_122, 1159.4),
        ("resnet20", 272_474, 40.8),
        ("wrn_16_1", 175_066, 26.66),
        ("wrn_16_2", 691_674, 101.1),
        ("wrn_40_1", 563_930, 83.28),
        ("wrn_40_2", 2_243_546, 327.6),
        ("alexnet", 23_290_954, 62.74),
        ("convnet", 94_986, 10.32),
    ],
)
def test_size_and_cost(name, params, mmacs):
    network = build(name).eval()
    assert sum(p.numel() for p in network.parameters()) == params
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = network(torch.rand(2, 1 if "lenet" in name else 3, 32, 32))
    assert logits.shape == (2, 10)
    assert counter.get_total_flops() / 4e6 == pytest.approx(mmacs, rel=2e-3)


@pytest.mark.parametrize(("name", "count"), [("resnet34", 36), ("resnet18", 20), ("wrn_40_2", 37), ("lenet5", 0)])
def test_batch_norm_layers(name, count):
    assert sum(isinstance(m, nn.BatchNorm2d) for m in build(name).modules()) == count


FAMILIES = {"wrn_D_K", "resnetD", "smp_NAME"}
BORROWED = {"deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"}
NAMES = [n for n in builtin.names() if n not in FAMILIES | BORROWED] + ["wrn_16_1", "resnet8"]


@pytest.mark.parametrize("name", NAMES)
def test_taps_are_maps_and_the_classifier_is_the_last_layer(name):
    network = build(name).eval()
    seen = {}
    for tap in network.taps:
        network.get_submodule(tap).register_forward_hook(lambda m, i, o, tap=tap: seen.update({tap: o}))
    output = network(torch.rand(2, 1 if "lenet" in name else 3, 32, 32))
    assert len(seen) == len(network.taps) >= 3
    assert all(o.dim() == 4 for o in seen.values())
    if output.dim() == 4:
        return  # its last layer is a convolution
    classifier = network.get_submodule(network.classifier)
    assert isinstance(classifier, nn.Linear)
    assert classifier.out_features == 10


@pytest.mark.parametrize("size", [8, 16, 28, 32])
def test_convnet_takes_small_images(size):
    assert build("convnet", image_size=size, widths=(4, 6, 8)).eval()(torch.rand(1, 3, size, size)).shape == (1, 10)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: build("resnet19"), "6n"),
        (lambda: build("wrn_17_2"), "6n"),
        (lambda: build("lenett5"), "did you mean lenet5"),
        (lambda: build("convnet", depth=3), "takes no argument depth"),
        (lambda: build("lenet5", image_size=28), "32x32"),
        (lambda: build("convnet", image_size=2), "at least 4"),
    ],
)
def test_wrong_requests(call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize(("kernel", "padding"), [(5, 0), (3, 1), (1, 0), (5, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_grey_convolution_is_a_convolution(kernel, padding, layout):
    torch.manual_seed(0)
    ours = GreyConv2d(3, kernel, padding).double().to(memory_format=layout)
    plain = nn.Conv2d(1, 3, kernel, padding=padding).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.rand(2, 1, 7, 6, dtype=torch.float64, requires_grad=True)
    inputs = [x, *ours.parameters()]
    assert torch.autograd.gradcheck(lambda *_: ours(x), inputs)
    theirs = torch.autograd.grad(plain(x).square().sum(), [x, *plain.parameters()])
    for a, b in zip(torch.autograd.grad(ours(x).square().sum(), inputs), theirs, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours(x.detach()), plain(x.detach()))


def test_wide_grey_images_take_the_librarys_way():
    layer = GreyConv2d(2, 3, 1)
    for width, ours in ((128, True), (129, False)):
        made = layer(torch.rand(1, 1, 4, width, requires_grad=True)).grad_fn
        assert ("GreyConvolution" in type(made).__name__) == ours


def test_the_grey_convolution_compiles():
    ours = GreyConv2d(3, 5, 0).requires_grad_(False)

    def loss(x):
        return ours(x).relu().square().sum()

    x = torch.rand(2, 1, 9, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(x), x)
    (found,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(x), x)
    torch.testing.assert_close(found, expected)


def test_the_grey_convolution_under_autocast():
    torch.manual_seed(0)
    ours = GreyConv2d(4, 3, 1)
    x = torch.rand(2, 1, 6, 6, requires_grad=True)
    inputs = [x, *ours.parameters()]
    exact = torch.autograd.grad(ours(x).square().sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x)
        assert y.dtype == torch.bfloat16
        loss = y.float().square().sum()
    for rough, true in zip(torch.autograd.grad(loss, inputs), exact, strict=True):
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, true, rtol=0.05, atol=0.05 * float(true.abs().max()))


def test_frozen_grey_convolution_sends_a_gradient_to_the_image_only():
    layer = GreyConv2d(2, 3, 1).requires_grad_(False)
    x = torch.rand(2, 1, 5, 5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 6), (1, 1, 2, 2), (3, WIDE, 4, 4), (2, 2, 5, 4), (2, 2, 4, 5), (1, 2, 2, 8)]
)
def test_the_halving_pool_is_a_max_pool(shape, layout):
    torch.manual_seed(0)
    # Of four values only, so that most windows hold equal ones.
    x = torch.randint(4, shape).float().contiguous(memory_format=layout).requires_grad_()
    ours, plain = HalvingPool()(x), nn.MaxPool2d(2)(x)
    assert torch.equal(ours, plain)
    assert torch.equal(HalvingPool()(x.detach()), plain)
    g = torch.randn_like(plain)
    (found,), (expected,) = torch.autograd.grad(ours, x, g), torch.autograd.grad(plain, x, g)
    assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(HalvingPool()(x), plain)


def test_the_halving_pool_hands_on_what_is_no_number():
    x = torch.zeros(1, 1, 2, 4)
    x[0, 0, 1, 1] = float("nan")
    for made in (HalvingPool()(x), HalvingPool()(x.clone().requires_grad_())):
        assert made[0, 0, 0].isnan().tolist() == [True, False]


def test_which_way_the_halving_pool_takes():
    def way(x):
        return type(HalvingPool()(x).grad_fn).__name__

    assert "HalvingPool" in way(torch.rand(1, WIDE - 1, 4, 4, requires_grad=True))
    for shape in ((1, WIDE, 4, 4), (1, 2, 5, 4), (1, 2, 4, 5)):
        assert "MaxPool" in way(torch.rand(*shape, requires_grad=True))


def test_the_halving_pool_compiles():
    x = torch.rand(2, 3, 6, 6, requires_grad=True)
    compiled = torch.compile(HalvingPool(), backend="aot_eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(x).square().sum(), x)
    (expected,) = torch.autograd.grad(nn.MaxPool2d(2)(x).square().sum(), x)
    assert torch.equal(found, expected)


def test_a_wide_block_adds_the_raw_input_or_the_projected_active_one():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for c_out, skipped in ((4, lambda b: x), (5, lambda b: b.project(F.relu(b.bn1(x))))):
        block = WideBlock(4, c_out, 1).eval()
        nn.init.zeros_(block.conv2.weight)
        assert torch.equal(block(x), skipped(block))
