"""The estimate of memory, and memory that runs out."""

import pytest
import torch
from helpers.networks import make_given, tiny_network
from helpers.runs import distil
from torch import nn

from dreamstill.engine import Hardware
from dreamstill.errors import InputError
from dreamstill.methods.controls.noise import Noise
from dreamstill.methods.ddad import DDAD
from dreamstill.networks.network import Network
from dreamstill.runs import memory, requirements
from dreamstill.runs.memory import Estimate, _Live, estimate, in_words

CPU = Hardware("cpu", "32", False)


def test_live_bytes_of_what_is_made_and_let_go():
    with _Live() as live:
        kept = torch.zeros(1000)
        for _ in range(3):
            gone = torch.zeros(500) + 1  # both of 2,000 bytes, for a moment
            del gone
        assert kept.view(10, 100).data_ptr() == kept.data_ptr()
    assert live.now == 4000
    assert live.peak in (6000, 8000)


def test_the_estimate_holds_at_larger_batches():
    method = DDAD(batch_size=64, nz=8, width=4, student_steps=2)
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    found = estimate(method, given, CPU)
    assert found.images == 64
    assert found.bytes == pytest.approx(memory._peak(method, given, CPU), rel=0.1)


def test_advice_names_the_batch_that_fits():
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    found = Estimate(fixed=2**30, each=2**26, images=256, there=8 * 2**30)
    assert (found.fits, found.most_images) == (False, 64)
    said = memory.describe(found, Noise(batch_size=256), given)
    assert said == (
        "about 17 GiB for steps of 256 images, and 8 GiB are available: it does not fit; give --method.batch-size 64"
    )
    assert Estimate(2**30, 2**20, 8, 8 * 2**30).fits
    assert Estimate(2**34, 2**20, 8, 2**30).most_images == 0


def test_a_dry_run_that_does_not_fit_says_so_and_measures_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda _: 2**15)
    monkeypatch.setattr("dreamstill.runs.budget.measure", None)
    distil(tmp_path / "run", dry_run=True)
    assert "it does not fit" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.06 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
    ],
)
def test_memory_that_runs_out_is_a_sentence(error):
    with pytest.raises(InputError, match=r"the memory is not enough .*: give less"), in_words("give less"):
        raise error
    with pytest.raises(RuntimeError, match="shape"), in_words("give less"):
        raise RuntimeError("shape mismatch")


def test_a_run_that_asks_for_too_much_says_how_to_make_it_fit(tmp_path):
    with pytest.raises(InputError, match=r"memory is not enough .* --method\.batch-size"):
        distil(tmp_path / "run", method={"name": "noise", "batch_size": 2**44})


def large(side=224):
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))
    return Network(module, num_classes=1000, image_size=side, channels=3, mean=0.5, std=0.25)


def test_the_generator_of_a_large_image_is_named_where_it_is_huge():
    note = requirements.generator_note(DDAD, large())
    assert note.startswith("its generator has 103 M parameters for images of 224x224: give --method.size large")
    assert requirements.generator_note(DDAD(size="large", width=16), large()) == ""
    assert requirements.generator_note(DDAD, large(32)) == ""
    assert requirements.generator_note(Noise, large()) == ""
    rows = {
        row["name"]: row for row in requirements.fitting(frozenset({"bn", "input_gradient", "sides"}), large(), False)
    }
    assert "103 M" in rows["ddad"]["note"]
