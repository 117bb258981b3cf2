"""Networks that lie whole in their file, and files of other kinds."""

import copy
import gzip
import io
import tarfile
import zipfile

import pytest
import torch
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks.load import resolve
from dreamstill.networks.network import plain_copy
from dreamstill.networks.output_check import check_output
from dreamstill.networks.state_dicts import load_state

FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    net(torch.rand(20, 1, 8, 8))
    return net.eval()


def scripted(net, path):
    torch.jit.trace(net, torch.rand(2, 1, 8, 8)).save(str(path))
    return path


def exported(net, path, batch):
    shapes = {"input": {0: torch.export.Dim("batch")}} if batch is None else None
    torch.export.save(torch.export.export(net, (torch.rand(batch or 2, 1, 8, 8),), dynamic_shapes=shapes), str(path))
    return path


def answers(network, net):
    images = torch.rand(5, 1, 8, 8)
    return torch.allclose(network(images), net((images - 0.3) / 0.4), atol=1e-5)


@pytest.mark.parametrize("kind", ["torchscript", "exported_program", "fixed batch of 1", "fixed batch of 3"])
def test_a_program_is_a_teacher_without_its_code(net, tmp_path, kind):
    path = tmp_path / "program.bin"
    if kind == "torchscript":
        scripted(net, path)
    else:
        exported(net, path, {"exported_program": None, "fixed batch of 1": 1, "fixed batch of 3": 3}[kind])
    with pytest.raises(InputError, match=r"loading it can execute code of the file's choice: pass --unsafe-load"):
        resolve(None, path, **FACTS)
    network = resolve(None, path, unsafe=True, **FACTS)
    assert network.name == ("torchscript" if kind == "torchscript" else "exported_program")
    assert answers(network, net)
    assert answers(plain_copy(network.eval()), net)
    check_output(network)
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    network.train().eval()(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert answers(resolve(network.name, path, unsafe=True, **FACTS), net)  # as a resumed run asks for it


def test_a_whole_pickled_module_is_not_named_a_second_time(net, tmp_path):
    for content in (net, {"model": net, "epoch": 3}):
        torch.save(content, tmp_path / "whole.pt")
        with pytest.raises(InputError, match="--unsafe-load"):
            resolve(None, tmp_path / "whole.pt", **FACTS)
        network = resolve(None, tmp_path / "whole.pt", unsafe=True, **FACTS)
        assert network.name == "pickled_module"
        assert answers(network.eval(), net)


def test_a_program_is_no_state_dict_and_not_called_corrupt(net, tmp_path):
    for path, what in (
        (scripted(net, tmp_path / "a.pt"), "TorchScript"),
        (exported(net, tmp_path / "b.pt", 2), ".pt2"),
    ):
        with pytest.raises(InputError, match=f"is an? .*{what}.*give it without a network's name") as caught:
            load_state(path)
        assert "corrupt" not in str(caught.value)
        assert "fetch" not in str(caught.value)
    with pytest.raises(InputError, match="stored whole in its file"):
        resolve("torchscript", None, **FACTS)


def test_an_onnx_file_without_its_reader(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx2torch", None)
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(InputError, match=r"reading it needs onnx and onnx2torch: pip install onnx onnx2torch"):
        resolve(None, tmp_path / "net.onnx", **FACTS)


def test_an_onnx_file_is_read(net, tmp_path):
    pytest.importorskip("onnx2torch")
    torch.onnx.export(net, (torch.rand(2, 1, 8, 8),), str(tmp_path / "net.onnx"), dynamo=False,
                      input_names=["x"], dynamic_axes={"x": {0: "n"}})  # fmt: skip
    network = resolve(None, tmp_path / "net.onnx", **FACTS)
    assert answers(network, net)
    check_output(network)


class Gelus(torch.nn.Module):
    """What the newest operators of ONNX say in words of their own: GELU, a mean over axes, a reshape, a split."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(1, 8, 2, 2), torch.nn.Linear(4, 4)

    def forward(self, x):
        a, b = torch.nn.functional.gelu(self.first(x)).chunk(2, 1)
        return self.last((a * b).reshape(-1, 4, 16).mean(2))


@pytest.mark.slow
def test_an_onnx_file_of_todays_exporter_is_read(tmp_path):
    pytest.importorskip("onnx2torch")
    torch.manual_seed(0)
    net = Gelus().eval()
    torch.onnx.export(net, (torch.rand(2, 1, 8, 8),), tmp_path / "net.onnx", dynamo=True, verbose=False,
                      dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))  # fmt: skip
    network = resolve(None, tmp_path / "net.onnx", **FACTS)
    assert answers(network, net)
    check_output(network)


def test_an_onnx_file_that_is_read_wrongly_is_refused(net, tmp_path, monkeypatch):
    onnx2torch = pytest.importorskip("onnx2torch")
    torch.onnx.export(net, (torch.rand(2, 1, 8, 8),), str(tmp_path / "net.onnx"), dynamo=False,
                      input_names=["x"], dynamic_axes={"x": {0: "n"}})  # fmt: skip
    other = copy.deepcopy(net)
    torch.nn.init.normal_(next(iter(other.parameters())))
    monkeypatch.setattr(onnx2torch, "convert", lambda model: other)
    with pytest.raises(InputError, match="onnx2torch reads wrongly"):
        resolve(None, tmp_path / "net.onnx", **FACTS)


def archive_of_others(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/best.pt", b"x")


def tar_of(*names):
    def write(path):
        with tarfile.open(path, "w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name), io.BytesIO())

    return write


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (archive_of_others, r"zip archive of other files \(weights/best.pt\): unpack it"),
        (tar_of("best.pt"), r"tar archive of other files \(best.pt\): unpack it"),
        (tar_of("sys_info", "pickle", "storages", "tensors"), r"is in the .tar format of PyTorch before 0.1.10"),
        (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "compressed by gzip: unpack it"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 99), "HDF5 file, as Keras writes"),
    ],
)
def test_whole_files_of_another_kind_are_not_called_corrupt(tmp_path, write, words):
    write(tmp_path / "x.pt")
    with pytest.raises(InputError, match=words) as caught:
        load_state(tmp_path / "x.pt")
    assert "corrupt" not in str(caught.value)
