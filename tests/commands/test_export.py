"""``dreamstill export``: each form answers as the student does, and the record beside it says so."""

import hashlib
import json
from importlib.util import find_spec

import onnx
import pytest
import torch
from helpers.networks import tiny_network
from helpers.runs import FIXED

import dreamstill
from dreamstill import cli
from dreamstill.commands import export as command
from dreamstill.data.load import load_images
from dreamstill.errors import InputError
from dreamstill.networks.load import save_network
from dreamstill.networks.network import Network
from dreamstill.networks.onnx_session import onnx_answers
from dreamstill.networks.pixels import to_float

pytestmark = pytest.mark.xdist_group("export")
DIGITS = [f"digit {i}" for i in range(10)]


@pytest.fixture(scope="module")
def run(tmp_path_factory, trained_on_digits):
    """A student that reads digits: it begins at its teacher's weights and learns a little from noise."""
    folder = tmp_path_factory.mktemp("export")
    teacher = Network(
        trained_on_digits.module, num_classes=10, image_size=8, channels=1, mean=trained_on_digits.mean.flatten(),
        std=trained_on_digits.std.flatten(), name="convnet", kwargs={"widths": [16, 32]}, classes=DIGITS,
    )  # fmt: skip
    save_network(folder / "teacher.safetensors", teacher)
    dreamstill.distill(
        teacher_checkpoint=str(folder / "teacher.safetensors"), student_checkpoint=str(folder / "teacher.safetensors"),
        method={"name": "noise", "batch_size": 16, "lr_s": 1e-4}, steps=2, data="digits", evaluations=0, onnx=False,
        out=str(folder / "run"), **FIXED,
    )  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def digits():
    return to_float(load_images("digits").pixels)


def read(path):
    return json.loads(path.with_name(path.name + ".json").read_text())


def checked(path, record, student, digits, read_back):
    """What holds of every form in float32."""
    assert record == read(path)
    for n in (1, 5, 40):
        with torch.no_grad():
            expected = student(digits[:n])
        assert torch.allclose(read_back(path)(digits[:n]), expected, atol=1e-4)
    assert record["files"][path.name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["files"][path.name]["bytes"] == path.stat().st_size
    assert record["parity"]["argmax_agreement"] == 1
    assert record["parity"]["max_abs_difference"] < 1e-4
    assert record["network"]["classes"] == DIGITS
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.slow
def test_onnx(run, digits, capsys):
    assert cli.main(["export", str(run)]) == 0
    assert "the same class for 100.0%" in capsys.readouterr().out
    path = run / "student.onnx"
    checked(path, read(path), dreamstill.load_student(str(run)), digits, onnx_answers)
    model = onnx.load(path)
    assert read(path)["opset"] == model.opset_import[0].version
    assert json.loads(model.metadata_props[0].value)["classes"] == DIGITS


@pytest.mark.slow
def test_an_exported_program_needs_no_code_and_names_no_path(run, digits, tmp_path):
    path = tmp_path / "made" / "s.pt2"
    record = dreamstill.export(str(run), format="pt2", out=str(path))
    checked(path, record, dreamstill.load_student(str(run)), digits, lambda p: torch.export.load(p).module())
    extra = {"dreamstill.json": ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["dreamstill.json"])["classes"] == DIGITS
    assert b"/dreamstill/networks" not in path.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["s.pt2", "s.pt2.json"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino(run, digits, tmp_path):
    from dreamstill.networks.export_openvino import openvino_answers

    path = tmp_path / "s.xml"
    record = dreamstill.export(str(run), format="openvino", out=str(path))
    checked(path, record, dreamstill.load_student(str(run)), digits, openvino_answers)
    assert sorted(record["files"]) == ["s.bin", "s.xml"]


# ---------------------------------------------------------------- 8 bits


def accuracy(answers, digits):
    return float((answers(digits).argmax(1) == load_images("digits").labels).float().mean())


def check_int8(run, path, record, digits, read_back):
    assert record == read(path)
    answers, student = read_back(path), dreamstill.load_student(str(run))
    with torch.no_grad():
        expected = student(digits)
    assert float((answers(digits).argmax(1) == expected.argmax(1)).float().mean()) > 0.97
    assert 0 < float((answers(digits) - expected).abs().max())  # it is not the same in float32
    labelled = record["int8"]["labelled"]
    assert labelled["data"] == "digits, test, 500 images"
    assert labelled["int8"] == pytest.approx(accuracy(answers, digits), abs=0.003)
    assert labelled["student"] == pytest.approx(accuracy(lambda x: expected, digits), abs=1e-6)
    assert labelled["int8"] > labelled["student"] - 0.03
    agreed = record["int8"]["agreement_with_float32"]
    assert agreed["images"] == 24
    assert {"int8", "int8_calibrated_on_noise"} < set(agreed)
    cost = record["cost"]
    assert set(cost["milliseconds"]) == {
        "teacher_torch",
        "teacher_onnx",
        "student_torch",
        "student_onnx",
        "student_int8",
    }
    assert all(ms > 0 for ms in cost["milliseconds"].values())
    assert record["files"][path.name]["bytes"] == cost["bytes"]["student_int8"] == path.stat().st_size


@pytest.mark.slow
def test_int8_by_onnxruntime(run, digits, capsys):
    assert cli.main(["export", str(run), "--format", "onnx-int8", "--images", "24"]) == 0
    out = capsys.readouterr().out
    assert "accuracy on digits, test, 500 images: float32" in out
    assert "calibrated on noise" in out
    path = run / "student.int8.onnx"
    check_int8(run, path, read(path), digits, onnx_answers)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in model.graph.initializer) >= 3  # two layers and the head
    assert json.loads(model.metadata_props[0].value)["classes"] == DIGITS
    assert read(path)["int8"]["calibration"] == {"images": 24, "source": "made by the run's method"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
def test_int8_by_torchao(run, digits, tmp_path):
    path = tmp_path / "s.pt2"
    record = dreamstill.export(str(run), format="pt2-int8", images=24, out=str(path))
    check_int8(run, path, record, digits, command.FORMATS["pt2-int8"].read)


@pytest.mark.slow
def test_stored_images_calibrate(run, tmp_path):
    dreamstill.synthesize(str(run), n=30, out=str(run / "images.safetensors"))
    try:
        record = dreamstill.export(str(run), format="onnx-int8", images=10, out=str(tmp_path / "s.onnx"))
    finally:
        (run / "images.safetensors").unlink()
    assert record["int8"]["calibration"] == {"images": 10, "source": "images.safetensors"}
    assert record["int8"]["agreement_with_float32"]["images"] == 10


# ---------------------------------------------------------------- what cannot be


@pytest.mark.slow
def test_what_answers_differently_is_refused_and_the_old_file_stays(run, tmp_path, monkeypatch):
    path = tmp_path / "s.onnx"
    path.write_text("old")
    monkeypatch.setattr(command, "parity", lambda *_: {"max_difference": float("nan")})
    with pytest.raises(InputError, match="differs from torch by nan of its largest logit"):
        dreamstill.export(str(run), out=str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["s.onnx"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx-int8", "--out", "x.pt2"], "a file of the format onnx-int8 ends in .onnx"),
        (["--format", "onnx-int8", "--images", "0"], "images is 0"),
        (["--format", "tflite"], "expects one of onnx, onnx-int8, pt2"),
    ],
)
def test_slips(run, words, said, capsys):
    assert cli.main(["export", str(run), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_bare_file_has_no_images_to_calibrate_on(tmp_path):
    save_network(tmp_path / "s.safetensors", tiny_network((2, 3), 0))
    with pytest.raises(InputError, match="no folder of a distillation"):
        dreamstill.export(str(tmp_path / "s.safetensors"), format="onnx-int8")
    record = dreamstill.export(str(tmp_path / "s.safetensors"))
    assert (record["file"], record["run"]) == ("s.onnx", "s.safetensors")


@pytest.mark.slow
def test_a_student_that_was_given_in_python(tmp_path):
    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network((3, 4), 1).module

        def forward(self, x):
            return self.inner(x)

    folder = tmp_path / "run"
    teacher = tiny_network((6, 8), 0)
    dreamstill.distill(
        teacher, Mine(), method={"name": "noise", "batch_size": 8}, steps=2, out=str(folder), onnx=False, **FIXED
    )
    with pytest.raises(InputError, match="given in Python"):
        dreamstill.export(str(folder), format="pt2")
    dreamstill.export(str(folder), format="pt2", student=Mine())
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = dreamstill.load_student(str(folder), Mine())(images)
    assert torch.allclose(torch.export.load(folder / "student.pt2").module()(images), expected, atol=1e-5)
