"""Tensors too large for memory: in a file without a name, with the same bits."""

import json
import os

import pytest
import torch
from helpers.networks import tiny_network

import dreamstill
from dreamstill.data import storage
from dreamstill.data.bank import ImageBank
from dreamstill.data.load import load_images
from dreamstill.errors import InputError
from dreamstill.networks.load import save_network


@pytest.fixture
def tiny(monkeypatch):
    """All is large."""
    monkeypatch.setattr(storage, "LARGE", 0)


def test_a_file_is_mapped_and_has_no_name(tiny, tmp_path):
    x = storage.room((10, 3), torch.float16, tmp_path)
    assert x.shape == (10, 3)
    assert not x.any()
    x[2] = 1.5
    assert x.sum() == 4.5
    assert list(tmp_path.iterdir()) == []
    assert any(str(tmp_path) in line for line in open("/proc/self/maps"))
    assert torch.equal(storage.rows(x, torch.tensor([2, 0])), torch.tensor([[1.5] * 3, [0.0] * 3]).half())


def test_small_ones_stay_in_memory(tmp_path):
    assert not storage.is_large((50_000, 3, 32, 32), torch.uint8)
    assert storage.is_large((50_000, 3, 224, 224), torch.uint8)
    storage.room((10,), torch.uint8, tmp_path / "not there")


def test_a_full_disk_is_known_at_the_start(tmp_path):
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.raises(InputError, match=r"GB of images and logits find no room in .*free some space"):
        storage.room((free + 2**34,), torch.uint8, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_folder(tmp_path):
    assert storage.nearest(tmp_path / "a" / "b") == tmp_path
    assert storage.nearest(tmp_path) == tmp_path


def test_a_bank_in_a_file_is_a_bank(tiny, tmp_path, monkeypatch):
    torch.manual_seed(0)
    images, logits, labels = torch.rand(7, 1, 2, 2), torch.randn(7, 3), torch.arange(7)
    mapped = ImageBank(5, 1, (2, 2), k=3, folder=tmp_path)
    monkeypatch.undo()
    plain = ImageBank(5, 1, (2, 2), k=3)
    assert "pixels" in plain.state_dict()
    assert "pixels" not in mapped.state_dict()  # it would follow the module to its device
    for bank in (mapped, plain):
        bank.add(images[:4], labels[:4], logits[:4])
        bank.add(images[4:], labels[4:], logits[4:])
    index = torch.tensor([4, 0, 0, 2])
    for mine, theirs in zip(mapped.draw(index), plain.draw(index), strict=True):
        assert torch.equal(mine, theirs)
    start, rows = mapped.rows(0)
    again = ImageBank(5, 1, (2, 2), k=3)
    again.restore(start, rows)
    assert torch.equal(again.pixels, mapped.pixels)
    assert torch.equal(again.logits, mapped.logits)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the soft targets")
def test_a_run_with_all_of_it_in_files_has_the_same_bits(tmp_path, monkeypatch):
    save_network(tmp_path / "teacher.safetensors", tiny_network((6, 8), 0))
    settings = {
        "teacher_checkpoint": str(tmp_path / "teacher.safetensors"), "student": "convnet", "onnx": False,
        "student_args": {"widths": [3, 4]}, "precision": "32", "compile": "off", "device": "cpu", "quiet": True,
    }  # fmt: skip
    soft = {"name": "soft_target", "n_images": 40, "synthesis_batch": 8, "iterations": 2, "batch_size": 8, "tau": 1.0}
    students = []
    for name, large in (("memory", storage.LARGE), ("file", 0)):
        monkeypatch.setattr(storage, "LARGE", large)
        out = tmp_path / name
        made = dreamstill.distill(**settings, method=soft, steps=5, out=str(out))
        assert len(load_images(str(out / "transfer.parquet"))) == 40
        method = {"name": "transfer", "batch_size": 8}
        stored = str(tmp_path / "memory/transfer.parquet")
        other = dreamstill.distill(**settings, method=method, transfer=stored, steps=5, out=str(tmp_path / f"{name}-2"))
        students.append([*made.student.state_dict().values(), *other.student.state_dict().values()])
        assert json.loads((out / "summary.json").read_text())["transfer_set"]["images"] == 40
    assert all(torch.equal(a, b) for a, b in zip(*students, strict=True))
