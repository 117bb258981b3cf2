"""A transfer set on the disk: written whole or not at all, and read again as it was."""

import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.networks import make_given, tiny_network
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import dreamstill
from dreamstill.data import transfer_set
from dreamstill.data.load import load_images
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.methods.controls.transfer import Transfer
from dreamstill.networks import state_dicts
from dreamstill.networks.load import save_network
from dreamstill.networks.network import Network


def batches(n=25, size=10, channels=3, k=4):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, channels, 6, 8), dtype=torch.uint8, generator=generator)
    logits = torch.randn(n, k, generator=generator)
    return pixels, logits, zip(pixels.split(size), logits.split(size), strict=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_read_again_as_a_labelled_set(channels, tmp_path):
    pixels, logits, pieces = batches(channels=channels)
    path = tmp_path / "made" / "train.parquet"
    assert transfer_set.write_parquet(path, pieces, ["a", "b", "c", "d"], {"seed": 3}) == 25
    for source in (path, path.parent):
        found = load_images(str(source), "train")
        assert torch.equal(found.pixels, pixels)
        assert torch.equal(found.labels, logits.argmax(1))
        assert found.classes == ("a", "b", "c", "d")
    table = pq.read_table(path)
    assert torch.equal(torch.tensor(table["logits"].to_pylist()), logits)
    assert json.loads(table.schema.metadata[b"dreamstill"]) == {"seed": 3}
    assert pq.ParquetFile(path).num_row_groups == 3
    row = table["image"][11].as_py()
    assert row["path"] == "000011.png"
    assert Image.open(io.BytesIO(row["bytes"])).size == (8, 6)
    assert [p.name for p in path.parent.iterdir()] == ["train.parquet"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "set.parquet"
    path.write_bytes(b"old")
    pixels, logits, _ = batches()

    def failing():
        yield pixels, logits
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        transfer_set.write_parquet(path, failing(), ["a"] * 4)
    with pytest.raises(InputError, match="no image to write"):
        transfer_set.write_parquet(path, iter(()), ["a"] * 4)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["set.parquet"]


@pytest.mark.parametrize("image", [torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4)])
def test_what_png_cannot_hold(image):
    with pytest.raises(InputError, match=r"write \.safetensors"):
        transfer_set.png(image)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of a method that keeps a transfer set, and one of a control that does not, of the same teacher."""
    folder = tmp_path_factory.mktemp("runs")
    save_network(folder / "teacher.safetensors", tiny_network((6, 8), 0))
    sizes = {"n_images": 40, "synthesis_batch": 8, "iterations": 2, "batch_size": 8, "tau": 1.0}
    for name, method in (("soft", {"name": "soft_target", **sizes}), ("noise", {"name": "noise", "batch_size": 8})):
        dreamstill.distill(
            teacher_checkpoint=str(folder / "teacher.safetensors"), student="convnet",
            student_args={"widths": [3, 4]}, method=method, steps=5, out=str(folder / name), onnx=False,
            precision="32", compile="off", device="cpu", quiet=True,
        )  # fmt: skip
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the soft targets")
def test_synthesize_writes_the_transfer_set_of_a_run(runs, capsys):
    path = dreamstill.synthesize(str(runs / "soft"))
    assert path == str(runs / "soft" / "transfer.parquet")
    assert "40 images and the teacher's logits" in capsys.readouterr().out
    found = load_images(path)
    (shard,) = (runs / "soft" / "checkpoint").glob("bank-transfer-*")
    stored = load_file(shard)
    assert torch.equal(found.pixels, stored["pixels"])
    table = pq.read_table(path)
    logits = torch.tensor(table["logits"].to_pylist())
    assert torch.allclose(logits, stored["logits"].float(), atol=2e-3)
    with torch.no_grad():  # said in float32, and held against float64
        said = tiny_network((6, 8), 0).double()(found.pixels.double() / 255)
    assert torch.allclose(said.float(), logits, atol=1e-4)
    assert torch.equal(found.labels, logits.argmax(1))
    assert found.classes == ("0", "1", "2", "3")
    about = json.loads(table.schema.metadata[b"dreamstill"])
    assert (about["run"], about["method"]["name"], about["num_classes"]) == ("soft", "soft_target", 4)
    some = dreamstill.synthesize(str(runs / "soft"), n=12, out=str(runs / "some.parquet"))
    assert torch.equal(load_images(some).pixels, found.pixels[:12])
    with pytest.raises(InputError, match="has 40 images, not 41"):
        dreamstill.synthesize(str(runs / "soft"), n=41)


@pytest.mark.filterwarnings("ignore:the soft targets")
def test_the_files_name_says_how_it_is_written(runs):
    found = load_images(dreamstill.synthesize(str(runs / "noise"), n=1500, out=str(runs / "noise.parquet")))
    assert found.pixels.shape == (1500, 1, 8, 8)
    assert len(found.pixels.flatten(1).unique(dim=0)) == 1500  # the second piece is not the first again
    assert pq.ParquetFile(runs / "noise.parquet").num_row_groups == 2
    kept = load_file(dreamstill.synthesize(str(runs / "soft"), n=30, out=str(runs / "soft.safetensors")))
    assert kept["pixels"].shape == (30, 1, 8, 8)
    assert dreamstill.synthesize(str(runs / "noise")) == str(runs / "noise" / "images.safetensors")
    with pytest.raises(InputError, match="n is 0"):
        dreamstill.synthesize(str(runs / "noise"), n=0)


# ---------------------------------------------------------------- students from a stored set


def distil(runs, **changes):
    settings = {
        "teacher_checkpoint": str(runs / "teacher.safetensors"), "student": "convnet", "steps": 4, "onnx": False,
        "student_args": {"widths": [2, 3]}, "method": {"name": "transfer", "batch_size": 8}, "precision": "32",
        "compile": "off", "device": "cpu", "quiet": True, "checkpoint_steps": 2,
    }  # fmt: skip
    return dreamstill.distill(**{**settings, **changes})


@pytest.fixture(scope="module")
def stored(runs):
    return dreamstill.synthesize(str(runs / "soft"), out=str(runs / "set.parquet"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the soft targets")
@pytest.mark.parametrize("method", [{}, {"loss": "l1", "crop": 1, "flip": True}])
def test_a_student_of_another_size_learns_from_the_stored_set(runs, stored, method, tmp_path):
    out = tmp_path / "run"
    distil(runs, transfer=stored, out=str(out), method={"name": "transfer", "batch_size": 8, **method})
    summary = json.loads((out / "summary.json").read_text())
    assert summary["student"]["params"] < 110  # the run that made the set has more
    assert summary["outside_information"] == []
    assert sum(summary["class_histogram"]) > 0
    made = dreamstill.synthesize(str(out), n=5)  # what it learnt from, taken up from its own folder
    known = {row.numpy().tobytes() for row in load_images(stored).pixels}
    assert all(row.numpy().tobytes() in known for row in load_file(made)["pixels"])


@pytest.mark.filterwarnings("ignore:the soft targets")
def test_a_set_made_in_another_precision_is_of_the_same_teacher(runs, tmp_path):
    method = {"name": "noise", "batch_size": 8}
    distil(runs, method=method, precision="64", out=str(tmp_path / "run"))
    made = dreamstill.synthesize(str(tmp_path / "run"), n=9, out=str(tmp_path / "set.parquet"))
    assert len(transfer_set.read_parquet(made, tiny_network((6, 8), 0)).pixels) == 9


@pytest.mark.filterwarnings("ignore:the soft targets")
def test_the_stored_logits_are_what_is_learnt(runs, stored):
    found = transfer_set.read_parquet(stored, tiny_network((6, 8), 0))
    with torch.no_grad():
        said = tiny_network((6, 8), 0).double()(found.pixels.double() / 255)
    assert torch.allclose(found.logits, said.float(), atol=1e-4)
    assert found.sha256 == state_dicts.sha256(runs / "set.parquet")


@pytest.mark.filterwarnings("ignore:the soft targets")
def test_sets_that_do_not_fit(runs, stored, tmp_path):
    for other, words in (
        (tiny_network((6, 8), 1), "the teacher with SHA-256"),
        (tiny_network((6, 8), 0, num_classes=5), "a number of classes of 4, and here it is 5"),
        (tiny_network((6, 8), 0, image_size=16), "images of 1x8x8, and here it is 1x16x16"),
        (
            Network(tiny_network((6, 8), 0).module, num_classes=4, image_size=8, channels=1, mean=[0.25], std=[0.4]),
            "pixels of the mean and deviation",
        ),
    ):
        with pytest.raises(InputError, match=words):
            transfer_set.read_parquet(stored, other)
    (tmp_path / "text.parquet").write_text("no parquet")
    table = pq.read_table(stored).replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "bare.parquet")
    for name in ("text.parquet", "bare.parquet", "nothing.parquet"):
        with pytest.raises(InputError, match="is not a transfer set"):
            distil(runs, transfer=str(tmp_path / name))
    table = pq.read_table(stored)
    rows = table["image"].to_pylist()
    rows[3] = {"bytes": rows[3]["bytes"][:20], "path": None}
    pq.write_table(
        table.set_column(0, "image", pa.array(rows, table.schema.field("image").type)), tmp_path / "cut.parquet"
    )
    with pytest.raises(InputError, match=r"image 3 of the transfer set .* cannot be read"):
        distil(runs, transfer=str(tmp_path / "cut.parquet"))
    pq.write_table(table.drop_columns(["logits"]), tmp_path / "half.parquet")
    with pytest.raises(InputError, match=r"image 0 of the transfer set .* cannot be read"):
        distil(runs, transfer=str(tmp_path / "half.parquet"))
    with pytest.raises(InputError, match="none was given: name it with --transfer"):
        distil(runs)
    with pytest.raises(InputError, match="leave out --transfer"):
        distil(runs, transfer=stored, method="noise")


@pytest.mark.filterwarnings("ignore:the soft targets")
def test_a_run_goes_on_with_its_own_set_only(runs, stored, tmp_path):
    mine, out = tmp_path / "mine.parquet", tmp_path / "run"
    mine.write_bytes((runs / "set.parquet").read_bytes())
    distil(runs, transfer=str(mine), out=str(out))
    (out / "report.html").unlink()
    dreamstill.synthesize(str(runs / "soft"), n=12, out=str(mine))
    with pytest.raises(InputError, match="not the one that the run"):
        distil(runs, out=str(out), resume=True)


@pytest.mark.filterwarnings("ignore:the soft targets")
def test_warped_images_are_fed_and_the_teacher_asked_again(runs, stored):
    found = transfer_set.read_parquet(stored, tiny_network((6, 8), 0))
    given = make_given(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), transfer_pixels=found.pixels, transfer_logits=found.logits
    )
    for warp in (0.0, 1.0):
        engine, method = Engine(given, device="cpu", steps=4), Transfer(batch_size=8, warp=warp)
        method.setup(engine)
        fed, loss_s = [], method.loss_s
        method.loss_s = lambda images, t=None, loss=loss_s, fed=fed: (fed.append((images, t)), loss(images, t))[1]
        engine.begin(0, 0.0)
        method.step(engine)
        ((images, t),) = fed
        known = (images[:, None] == found.pixels / 255).flatten(2).all(2).any(1)
        assert bool(known.all()) == (t is not None) == (warp == 0)


def test_colours_are_read_again_as_they_were(tmp_path):
    teacher = tiny_network((4,), 0, channels=3)
    pixels = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    about = {"teacher_sha256": state_dicts.fingerprint(teacher.module), "outside": []}
    transfer_set.write_set(tmp_path / "set.parquet", [pixels], teacher, list("abcd"), about)
    assert torch.equal(transfer_set.read_parquet(tmp_path / "set.parquet", teacher).pixels, pixels)


def test_what_the_images_were_made_from_goes_with_them(runs, tmp_path):
    first = tmp_path / "first"
    distil(runs, method={"name": "noise", "batch_size": 8}, out=str(first))
    manifest = json.loads((first / "manifest.json").read_text())
    (first / "manifest.json").write_text(json.dumps(manifest | {"outside_information": ["70 collected images"]}))
    made = dreamstill.synthesize(str(first), n=20, out=str(tmp_path / "set.parquet"))
    distil(runs, transfer=made, method={"name": "transfer", "batch_size": 8}, out=str(tmp_path / "second"))
    for name in ("summary.json", "manifest.json"):
        said = json.loads((tmp_path / "second" / name).read_text())
        assert said["outside_information"] == ["70 collected images"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the soft targets")
def test_a_runs_own_set_says_its_teacher_and_what_the_student_began_with(runs, tmp_path):
    save_network(tmp_path / "s.safetensors", tiny_network((3, 4), 1))
    method = {"name": "soft_target", "n_images": 16, "synthesis_batch": 8, "iterations": 2, "batch_size": 8, "tau": 1.0}
    first = {"student": None, "student_args": None, "student_checkpoint": str(tmp_path / "s.safetensors")}
    distil(runs, method=method, out=str(tmp_path / "run"), **first)
    found = transfer_set.read_parquet(tmp_path / "run" / "transfer.parquet", tiny_network((6, 8), 0))
    assert found.outside == json.loads((tmp_path / "run" / "manifest.json").read_text())["outside_information"] != []
    # Its student's widths are in neither config.yaml nor a name, and its images are found all the same.
    assert len(load_file(dreamstill.synthesize(str(tmp_path / "run"), out=str(tmp_path / "x.safetensors")))) == 2


@pytest.mark.parametrize("bare", [False, True])
def test_images_of_a_run_whose_student_was_given_in_python(bare, runs, tmp_path):
    student = tiny_network((3, 4), 1)
    given = {"student": student.module if bare else student, "student_args": None}
    distil(runs, method={"name": "noise", "batch_size": 8}, out=str(tmp_path / "run"), **given)
    if bare:
        with pytest.raises(InputError, match="ConvNet that was given in Python"):
            dreamstill.synthesize(str(tmp_path / "run"), n=3)
    else:
        assert len(load_file(dreamstill.synthesize(str(tmp_path / "run"), n=3))["pixels"]) == 3


def test_images_of_a_run_whose_teacher_is_a_program(runs, tmp_path):
    layers = (nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4))
    torch.jit.trace(nn.Sequential(*layers).eval(), torch.rand(2, 1, 8, 8)).save(tmp_path / "teacher.ts")
    facts = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}
    method = {"name": "noise", "batch_size": 8}
    distil(
        runs, method=method, teacher_checkpoint=str(tmp_path / "teacher.ts"), unsafe_load=True,
        out=str(tmp_path / "run"), **facts,
    )  # fmt: skip
    made = dreamstill.synthesize(str(tmp_path / "run"), n=3, unsafe_load=True)
    assert len(load_file(made)["pixels"]) == 3
    with pytest.raises(InputError, match="pass --unsafe-load"):
        dreamstill.synthesize(str(tmp_path / "run"), n=3)


@pytest.mark.parametrize("damage", [None, "{", "[]"])
def test_a_run_without_its_manifest_is_one_sentence(damage, runs, tmp_path):
    shutil.copytree(runs / "noise", tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    manifest.unlink() if damage is None else manifest.write_text(damage)
    with pytest.raises(InputError, match=r"manifest.json cannot be used.*complete run folder"):
        dreamstill.synthesize(str(tmp_path / "run"), n=3)
