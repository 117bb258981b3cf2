"""Networks that answer for every pixel, and what stands around them: adapter, probes, generators, doctor."""

import builtins
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import dense_network, tiny_network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dreamstill import methods
from dreamstill.commands import doctor
from dreamstill.errors import InputError
from dreamstill.losses.prior import balance
from dreamstill.networks import builtin
from dreamstill.networks.generators import Generator, LargeGenerator
from dreamstill.networks.network import Network
from dreamstill.networks.output_check import check_output
from dreamstill.networks.probes import Probe, bn_layers, pooled_bn
from dreamstill.networks.state_dicts import apply_state
from dreamstill.runs import requirements


def build(name, size=(32, 48), **kwargs):
    return builtin.build(name, num_classes=5, image_size=size, **kwargs)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (88, 120), (33, 50)])
def test_the_encoder_decoder_answers_for_every_pixel_of_any_image(size):
    network = build("encoder_decoder", size, width=4).eval()
    assert network(torch.rand(2, 3, *size)).shape == (2, 5, *size)


def test_its_cost_follows_its_width():
    def flops(width):
        network = build("encoder_decoder", (88, 120), width=width).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, 88, 120))
        return counter.get_total_flops()

    assert flops(12) < flops(28) / 4


def test_it_can_be_learnt():
    torch.manual_seed(0)
    network = build("encoder_decoder", (16, 16), width=4)
    images = torch.rand(8, 3, 16, 16)
    labels = (images.mean(1) > 0.5).long()
    opt = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(network(images), labels)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_sides_that_are_too_small():
    with pytest.raises(InputError, match="at least 16 pixels, not 8x32"):
        build("encoder_decoder", (8, 32))
    with pytest.raises(InputError, match="classifiers take square images, not 32x48"):
        build("resnet8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvisions(name):
    network = Network(build(name), num_classes=5, image_size=(32, 48)).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 32, 48)).shape == (1, 5, 32, 48)
    check_output(network)
    pooled = pooled_bn(network)
    assert len(pooled) == (1 if "deeplab" in name else 0)
    if name == "deeplabv3_resnet50":  # 53 in the body, 6 in the pyramid of dilated convolutions, 1 in the head
        assert len(bn_layers(network.module)) == 60
    with pytest.raises(InputError, match="3 channels, not 1"):
        build(name, channels=1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kwargs"), [("smp_unet", {"encoder": "resnet18"}), ("smp_deeplabv3plus", {})])
def test_segmentation_models_pytorchs(name, kwargs):
    network = Network(build(name, (64, 96), **kwargs), num_classes=5, image_size=(64, 96), name=name, kwargs=kwargs)
    network.eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 5, 64, 96)
    check_output(network)
    assert len(Probe(network, bn=True)(torch.rand(2, 3, 64, 96), stats=True).moments) > 10
    with pytest.raises(InputError, match="cannot build nothing on resnet34"):
        build("smp_nothing")


def test_checkpoints_of_other_heads_say_what_to_change():
    five = build("encoder_decoder", width=4)
    twelve = builtin.build("encoder_decoder", num_classes=12, channels=3, image_size=(32, 48), width=4)
    with pytest.raises(InputError, match="The file has 5 classes, so set num_classes to that"):
        apply_state(twelve, five.state_dict(), "x.pt")
    with pytest.raises(InputError, match="It may be another width"):
        apply_state(build("encoder_decoder", width=6), five.state_dict(), "x.pt")
    plain, more = build("deeplabv3_mobilenet_v3_large"), build("deeplabv3_mobilenet_v3_large", aux_loss=True)
    with pytest.raises(InputError, match=r"unknown keys .*Give aux_loss: true"):
        apply_state(plain, more.state_dict(), "x.pt")
    with pytest.raises(InputError, match=r"missing keys .*Leave out aux_loss: true"):
        apply_state(more, plain.state_dict(), "x.pt")


@pytest.mark.parametrize(("name", "extra"), [("deeplabv3_resnet50", "models"), ("smp_unet", "segmentation")])
def test_a_library_that_is_missing_is_named_with_its_extra(name, extra, monkeypatch):
    real = builtins.__import__
    for module in [m for m in sys.modules if m.startswith(("torchvision", "segmentation_models_pytorch"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    assert real is builtins.__import__
    with pytest.raises(InputError, match=rf"cannot be imported .*pip install 'dreamstill\[{extra}\]'"):
        build(name)


# ---------------------------------------------------------------- adapter


class Coarse(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=4, padding=1)

    def forward(self, x):
        return {"out": self.conv(x), "aux": self.conv(x) * 0}


def test_a_smaller_map_is_enlarged_and_a_mapping_understood():
    network = Network(Coarse(), num_classes=5, image_size=(32, 48))
    images = torch.rand(2, 3, 32, 48)
    small = network.module(images)["out"]
    assert small.shape[2:] == (8, 12)
    expected = F.interpolate(small, size=(32, 48), mode="bilinear", align_corners=False)
    assert torch.equal(network(images), expected)
    check_output(network)


# ---------------------------------------------------------------- batch norm on pooled values


class Pooled(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool, self.pooled_norm, self.dense = nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), dense

    def forward(self, x):
        x = self.norm(self.conv(x))
        pooled = self.pooled_norm(self.pool(x))
        return x + pooled if self.dense else pooled.flatten(1)


def test_a_dense_networks_pooled_batch_norm_is_left_out_unless_asked_for():
    network = Network(Pooled(True), num_classes=4, image_size=(16, 24), channels=1).eval()
    images = torch.rand(3, 1, 16, 24)
    assert pooled_bn(network) == ["pooled_norm"]
    assert len(bn_layers(network.module)) == 2
    assert len(Probe(network, bn=True)(images, stats=True).moments) == 1
    network = Network(Pooled(True), num_classes=4, image_size=(16, 24), channels=1).eval()
    assert len(Probe(network, bn=True, bn_pooled=True)(images, stats=True).moments) == 2
    assert Probe(network, bn=True).left_out == ["pooled_norm"]
    assert Probe(network, bn=True, bn_pooled=True).left_out == Probe(network).left_out == []
    assert "pooled_norm" in doctor.examine(network)["bn_pooled"]


def test_of_a_classifier_every_batch_norm_counts():
    network = Network(Pooled(False), num_classes=4, image_size=(16, 24), channels=1).eval()
    assert pooled_bn(network) == []
    assert len(Probe(network, bn=True)(torch.rand(3, 1, 16, 24), stats=True).moments) == 2


# ---------------------------------------------------------------- generators


@pytest.mark.parametrize(
    ("build", "size"),
    [(Generator, (88, 120)), (Generator, (12, 20)), (LargeGenerator, (128, 176)), (LargeGenerator, (128, 128))],
)
def test_generators_make_images_that_are_not_square(build, size):
    network = Network(nn.Identity(), num_classes=4, image_size=size, channels=3)
    images = build(network, nz=8, width=2)(torch.randn(2, 8))
    assert images.shape == (2, 3, *size)
    images.sum().backward()


def test_a_tanh_head_stays_between_black_and_white_whatever_the_teachers_mean_and_std():
    network = Network(nn.Identity(), num_classes=4, image_size=(8, 12), channels=3, mean=[0.5] * 3, std=[0.5] * 3)
    torch.manual_seed(0)
    z = torch.randn(32, 8)
    free = Generator(network, nz=8, width=4)(z)
    bound = Generator(network, nz=8, width=4, head="tanh")
    images = bound(z)
    assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1
    assert float(free.detach().std((0, 2, 3)).mean()) == pytest.approx(0.5, rel=0.01)
    assert not hasattr(bound, "norm3")
    images.sum().backward()


@pytest.mark.parametrize(
    ("build", "size", "words"),
    [
        (Generator, (90, 120), "multiples of 4, and the teacher takes 90x120 ones.* 92x120 is the nearest"),
        (Generator, (2, 1), "4x4 is the nearest"),
        (LargeGenerator, (88, 121), "multiples of 16, and the teacher takes 88x121 ones.* 96x128 is the nearest"),
    ],
)
def test_sides_that_a_generator_cannot_make(build, size, words):
    network = Network(nn.Identity(), num_classes=4, image_size=size, channels=3)
    with pytest.raises(InputError, match=words):
        build(network, nz=8, width=2)


def test_the_balance_of_maps_is_that_of_their_pixels():
    maps = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert float(balance(maps)) == pytest.approx(float(balance(maps.permute(0, 2, 3, 1).flatten(0, 2))), rel=1e-5)


# ---------------------------------------------------------------- doctor


def test_the_doctor_says_which_methods_take_a_map():
    report = doctor.examine(dense_network(4, 0))
    assert (report["problems"], report["output"]) == ([], "logits")
    rows = {row["name"]: row for row in report["methods"]}
    assert rows["ddad"]["fits"]
    assert rows["noise"]["fits"]
    for name in ("cgdd", "cpsc", "hidfd", "soft_target", "collected_only"):
        assert "one row of logits per image (this teacher gives a map" in rows[name]["why"]
        assert "ddad, noise, random_generator, real_data can learn from segmentation networks" in rows[name]["why"]
    assert requirements.missing(methods.get("ddad"), tiny_network((4,), 0)) == []
