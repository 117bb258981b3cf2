import copy
import json
import os

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.networks import tiny_network
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks import builtin
from dreamstill.networks.export_onnx import _difference, _model, export_onnx
from dreamstill.networks.network import Network


class Flat(nn.Module):
    """One linear layer, and whatever a test makes of its output."""

    def __init__(self, end=lambda y: y):
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.end = end

    def forward(self, x):
        return self.end(self.linear(x.flatten(1)))


def flat(end=lambda y: y):
    torch.manual_seed(0)
    return Network(Flat(end), num_classes=4, image_size=8, channels=1, mean=[0.3], std=[0.4])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    network = tiny_network((4, 6), 0)
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    return network, path, export_onnx(network, path)


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images.numpy()})[0]


@pytest.mark.slow
def test_the_file_answers_as_the_network_does_mean_and_std_inside(exported):
    network, path, found = exported
    for n in (1, 3, 32):
        images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))
        expected = network.module((images - 0.3) / 0.4).detach().numpy()
        assert np.abs(run(path, images) - expected).max() < 1e-4 * np.abs(expected).max()
    assert found["max_difference"] < 1e-4


def test_one_file_that_says_what_it_is(exported):
    network, path, found = exported
    assert os.listdir(path.parent) == ["student.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {"dreamstill": network.description()}
    assert found == {
        "file": "student.onnx",
        "opset": model.opset_import[0].version,
        "max_difference": found["max_difference"],
        "input": {"name": "images", "shape": ["batch", 1, 8, 8], "range": [0, 1]},
        "bytes": path.stat().st_size,
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [model.graph.input[0].name, model.graph.output[0].name] == ["images", "logits"]
    assert shape[0].dim_param
    assert [d.dim_value for d in shape[1:]] == [1, 8, 8]


@pytest.mark.slow
def test_no_path_of_this_machine_is_in_the_file(exported):
    _, path, _ = exported
    content = path.read_bytes()
    assert b".py" not in content
    assert os.path.dirname(builtin.__file__).encode() not in content


@pytest.mark.slow
def test_the_network_stays_as_it_was_and_nothing_is_printed(tmp_path, capfd):
    network = tiny_network((4,), 0, dtype=torch.float64).train()
    network.module.linear.eval()
    modes, before = [m.training for m in network.modules()], copy.deepcopy(network.state_dict())
    stream = torch.get_rng_state()
    export_onnx(network, tmp_path / "x.onnx")
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), stream)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def branch(y):
    return y if float(y.sum()) > 0 else -y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "words"),
    [(branch, "could not be exported to ONNX"), (lambda y: y.view(2, 4), "any batch size|could not be exported")],
)
def test_what_cannot_be_exported_is_said_and_leaves_the_old_file(tmp_path, end, words):
    path = tmp_path / "x.onnx"
    path.write_text("old")
    with pytest.raises(InputError, match=words) as caught:
        export_onnx(flat(end), path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_a_file_that_answers_differently_is_refused(tmp_path, monkeypatch, wrong):
    made = _model

    def spoilt(network):
        other = copy.deepcopy(network)
        other.module.linear.bias.data += wrong * network(torch.rand(8, 1, 8, 8)).abs().max()
        return made(other)

    monkeypatch.setattr("dreamstill.networks.export_onnx._model", spoilt)
    with pytest.raises(InputError, match=r"differs from torch by (1|nan|9|2)"):
        export_onnx(flat(), tmp_path / "x.onnx")
    assert os.listdir(tmp_path) == []


def linear_head():
    """Its last map is flattened, so its first linear layer has another number of inputs than of outputs."""
    torch.manual_seed(0)
    module = builtin.build("lenet5_half", num_classes=4, channels=1, image_size=32)
    return Network(module, num_classes=4, image_size=32, channels=1, mean=[0.3], std=[0.4], name="lenet5_half")


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: tiny_network((4, 6), 0), linear_head], ids=["convnet", "lenet5_half"])
def test_onnxruntimes_own_quantiser_takes_the_file(tmp_path, make):
    network = make()
    export_onnx(network, tmp_path / "x.onnx")
    assert not onnx.load(tmp_path / "x.onnx").graph.value_info
    quantize_dynamic(tmp_path / "x.onnx", tmp_path / "q.onnx", weight_type=QuantType.QUInt8)
    images = torch.rand(64, 1, *network.image_size, generator=torch.Generator().manual_seed(3))
    expected = run(tmp_path / "x.onnx", images)
    assert np.abs(run(tmp_path / "q.onnx", images) - expected).max() < 0.1 * np.abs(expected).max()
    assert any(node.op_type in ("MatMulInteger", "ConvInteger") for node in onnx.load(tmp_path / "q.onnx").graph.node)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("wrn_16_1", 16), ("lenet5_half", 32)])
def test_other_networks(tmp_path, name, size):
    torch.manual_seed(0)
    module = builtin.build(name, num_classes=10, channels=3, image_size=size)
    network = Network(module, num_classes=10, image_size=size, mean=[0.5] * 3, std=[0.25] * 3, name=name)
    assert export_onnx(network, tmp_path / "x.onnx")["max_difference"] < 1e-3


@pytest.mark.slow
def test_the_difference_is_a_share_of_the_largest_logit():
    network = tiny_network((4,), 0)
    with torch.no_grad():
        for p in network.module.linear.parameters():
            p.mul_(1e3)
    content = _model(network).SerializeToString()
    largest = network(torch.rand(32, 1, 8, 8)).detach().abs().max()
    with torch.no_grad():
        network.module.linear.bias[0] += largest * 1e-2
    assert 1e-3 < _difference(network, content) < 0.1
