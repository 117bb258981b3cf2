"""The main job, end to end, on scikit-learn's real digits and on tiny networks."""

import copy
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.images import digits_folder
from helpers.networks import tiny_network
from helpers.runs import FIXED, SMALL, distil, stopped_run
from PIL import Image
from safetensors.torch import load_file

import dreamstill
from dreamstill import api, cli
from dreamstill.errors import DivergedError, InputError
from dreamstill.networks import state_dicts
from dreamstill.networks.load import resolve
from dreamstill.networks.network import Network
from dreamstill.runs import budget
from dreamstill.runs import resolve as resolving
from dreamstill.runs.inputs import resolve_student
from dreamstill.runs.settings import DistillSettings
from dreamstill.runs.weights import student_weights

# In one of the processes that tests are shared among: what the tests look at is made once.
pytestmark = pytest.mark.xdist_group("distill")


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    """A teacher of the digits, trained by the command in a few seconds."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    words = ["train", "convnet", "--network-args", "{widths: [16, 32, 64]}", "--data", "digits", "--image-size", "8"]
    words += ["--epochs", "20", "--crop", "1", "--out", str(folder), "--quiet", "--precision", "32", "--compile", "off"]
    assert cli.main(words) == 0
    return folder


@pytest.fixture(scope="module")
def run(teacher_run, tmp_path_factory):
    """A distilled student of it."""
    folder = tmp_path_factory.mktemp("student") / "run"
    words = ["distill", "--teacher-checkpoint", str(teacher_run), "--student", "convnet", "--student-args"]
    words += ["{widths: [8, 16, 32]}", "--method", "ddad", "--method.batch-size", "128", "--method.nz", "16"]
    words += ["--method.width", "16", "--method.student-steps", "1", "--method.w-balance", "1", "--method.schedule"]
    words += ["cosine", "--steps", "600", "--data", "digits", "--out", str(folder), "--quiet"]
    assert cli.main(words) == 0
    return folder


@pytest.mark.slow
def test_the_student_reads_real_digits_it_never_saw(run):
    summary = json.loads((run / "summary.json").read_text())
    # Well above chance, 0.1, and no nearer to what one machine measured: another's rounding takes another course.
    assert summary["teacher"]["accuracy"] > 0.95
    assert summary["student"]["accuracy"] > 0.85
    assert summary["agreement"] > 0.85
    assert summary["student"]["params"] < summary["teacher"]["params"] / 2
    assert min(summary["class_histogram"]) > 0


@pytest.mark.slow
def test_what_a_run_leaves(run, teacher_run):
    names = {p.name for p in run.iterdir()}
    assert names == {
        "config.yaml", "manifest.json", "metrics.csv", "tensorboard", "checkpoint", "student.safetensors",
        "student.onnx", "samples.png", "summary.json", "report.html", "README.md",
    }  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    for key in ("method", "wall_seconds", "steps", "seed", "device", "selection", "agreement"):
        assert summary[key] is not None
    assert set(summary["seconds"]) == {"setup", "training", "evaluation", "finishing"}
    assert summary["wall_seconds"] == pytest.approx(sum(summary["seconds"].values()))
    for side in ("teacher", "student"):
        assert {"name", "params", "flops", "accuracy"} <= summary[side].keys()
    assert summary["relative_accuracy"] == summary["student"]["accuracy"] / summary["teacher"]["accuracy"]
    assert summary["steps"] == 600
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["teacher_sha256"] == state_dicts.sha256(teacher_run / "model.safetensors")
    assert manifest["outside_information"] == []
    assert manifest["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert "auto" not in config.values()
    assert config["method"]["alpha"] == 1.0  # defaults are written out
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    assert {"student/discrepancy", "generator/bn", "eval/accuracy", "lr/student"} <= set(header.split(","))
    assert len(rows) >= 100
    assert Image.open(run / "samples.png").width > 100


@pytest.mark.slow
def test_the_student_loads_in_one_line_and_says_the_same_in_onnx(run):
    import onnxruntime

    student = dreamstill.load_student(str(run))
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        ours = student(images)
    session = onnxruntime.InferenceSession(str(run / "student.onnx"))
    theirs = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    assert np.abs(ours.numpy() - theirs).max() < 1e-3


@pytest.mark.slow
def test_evaluate_finds_the_teacher_again(run, capsys):
    found = dreamstill.evaluate(str(run), data="digits")
    summary = json.loads((run / "summary.json").read_text())
    # A network read from its file sums in another order, which may turn an image between two classes.
    an_image = 1.5 / sum(map(sum, found["confusion"]))
    assert found["accuracy"] == pytest.approx(summary["student"]["accuracy"], abs=an_image)
    assert found["agreement"] == pytest.approx(summary["agreement"], abs=an_image)
    assert found["teacher"]["accuracy"] == pytest.approx(summary["teacher"]["accuracy"], abs=an_image)
    assert "agreement" in capsys.readouterr().out


@pytest.mark.slow
def test_synthesize_makes_images_of_the_run(run, tmp_path):
    out = tmp_path / "images.safetensors"
    dreamstill.synthesize(str(run), n=70, out=str(out))
    images = load_file(out)
    assert images["pixels"].shape == (70, 1, 8, 8)
    assert images["pixels"].dtype == torch.uint8
    assert images["logits"].shape == (70, 10)
    teacher = dreamstill.load_teacher(yaml.safe_load((run / "config.yaml").read_text())["teacher_checkpoint"])
    with torch.no_grad():
        assert torch.allclose(teacher(images["pixels"].float() / 255), images["logits"], atol=1e-4)


@pytest.mark.slow
def test_a_finished_run_is_not_gone_past(run, capsys):
    assert cli.main(["distill", "--resume", "--out", str(run)]) == 2
    assert "--student-checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_its_config_is_a_recipe(run, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for out, config, more in ((first, run, ["--steps", "20"]), (second, first, [])):
        words = ["distill", "--config", str(config / "config.yaml"), "--out", str(out), "--quiet", "--no-onnx"]
        assert cli.main([*words, *more]) == 0
    a, b = (load_file(out / "student.safetensors") for out in (first, second))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_any_module_in_python(tmp_path):
    """The ten lines of the README."""
    teacher, student = tiny_network((6, 8), 0).module, tiny_network((3, 4), 1).module
    before = {k: v.clone() for k, v in student.state_dict().items()}
    trained = dreamstill.distill(
        teacher,
        student,
        method=SMALL,
        image_size=8,
        num_classes=4,
        channels=1,
        mean=[0.3],
        std=[0.4],
        steps=6,
        out=str(tmp_path / "run"),
        **FIXED,
    ).student
    assert trained(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    assert not trained.training
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())  # the user's own is not touched
    again = dreamstill.load_student(str(tmp_path / "run"), student)
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), trained.state_dict().values(), strict=True)
    )


@pytest.mark.slow
def test_same_seed_same_bits(tmp_path):
    a, b, c = distil(tmp_path / "a"), distil(tmp_path / "b"), distil(tmp_path / "c", seed=1)
    same = [torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)]
    other = [torch.equal(x, y) for x, y in zip(a.state_dict().values(), c.state_dict().values(), strict=True)]
    assert all(same)
    assert not all(other)


def test_a_student_does_not_begin_where_a_teacher_of_the_same_seed_began(teacher_run):
    # Two networks that begin at the same weights learn from each other what strangers do not.
    teacher = resolve(None, str(teacher_run), role="teacher")
    like = DistillSettings(student="convnet", student_args={"widths": [16, 32, 64]}, seed=0)
    student = resolve_student(like, teacher)
    mine, theirs = (
        torch.cat([v.flatten() for k, v in sorted(net.state_dict().items()) if v.dim() > 1])
        for net in (student, teacher)
    )
    assert abs(torch.nn.functional.cosine_similarity(mine, theirs, dim=0)) < 0.05
    again = resolve_student(like, teacher).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in student.state_dict().items())


def test_a_folder_that_holds_a_run(tmp_path):
    distil(tmp_path / "a")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="already holds a run"):
        distil(tmp_path / "a")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seed": 1}, "seed"), ({"steps": 50}, "steps"), ({"method": {"name": "ddad", "alpha": 7.0}}, "method")],
)
def test_resume_refuses_what_contradicts_the_run(changes, said, tmp_path):
    stopped_run(tmp_path / "a")
    with pytest.raises(InputError, match=said):
        distil(tmp_path / "a", resume=True, **changes)


@pytest.mark.slow
def test_resume_takes_the_same_settings_spelled_otherwise(tmp_path):
    stopped_run(tmp_path / "a")
    distil(tmp_path / "a", resume=True, image_size=8, method="ddad")
    assert (tmp_path / "a" / "report.html").exists()


@pytest.mark.slow
def test_resume_refuses_another_teacher(tmp_path):
    stopped_run(tmp_path / "a")
    with pytest.raises(InputError, match="SHA-256"):
        dreamstill.distill(
            tiny_network((6, 8), 7), tiny_network((3, 4), 1), out=str(tmp_path / "a"), resume=True, **FIXED
        )


def test_a_nan_stops_names_the_term_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(DivergedError, match="student/discrepancy"):
        distil(tmp_path / "a", method={**SMALL, "lr_s": 1e20}, checkpoint_steps=1)
    assert not (tmp_path / "a" / "student.safetensors").exists()
    assert not (tmp_path / "a" / "summary.json").exists()


def test_a_full_disk(tmp_path, monkeypatch):
    import dreamstill.files as files

    def full(handle, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write", full)
    with pytest.raises(InputError, match="No space left"):
        distil(tmp_path / "a")
    assert [p for p in (tmp_path / "a").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 5, "minutes": 1.0}, "both --steps and --minutes"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": None, "minutes": 0.001}, "give at least 1, or --steps"),
        ({"real": "digits"}, "does not look at real images"),
        ({"method": "real_data"}, "--real"),
        ({"device": "cuda:9"}, "device"),
        ({"data": "digits"}, "labels up to 9"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 10**23}, "seed is 1000"),
        ({"evaluations": -3}, "evaluations is -3"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds is -1"),
        ({"checkpoint_steps": -1}, "checkpoint_steps is -1"),
        ({"split": "train"}, "--split train has no effect"),
        ({"method": {"name": "soft_target", "tau_s": 0}}, "tau_s is 0.* must be above 0"),
        ({"method": {"name": "hidfd", "gan": 0}}, "gan is 0.* must be above 0"),
        ({"data_root": "somewhere"}, "--data-root somewhere has no effect"),
    ],
)
def test_impossible_combinations(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        distil(tmp_path / "a", **changes)
    assert not (tmp_path / "a").exists()


def test_first_weights_of_a_student_are_outside_information(run, teacher_run, tmp_path, capsys):
    """What made them may have seen the data; and the file that the run began with is the one it goes on with."""
    out = tmp_path / "run"
    settings = {
        "teacher_checkpoint": str(teacher_run), "method": {"name": "noise", "batch_size": 8}, "steps": 2,
        "onnx": False, **FIXED,
    }  # fmt: skip
    dreamstill.distill(student_checkpoint=str(teacher_run), out=str(out), **settings)
    summary, manifest = (json.loads((out / f).read_text()) for f in ("summary.json", "manifest.json"))
    digest = state_dicts.sha256(teacher_run / "model.safetensors")
    said = [
        f"the student's first weights, model.safetensors of SHA-256 {digest[:12]}",
        "real training images and their labels (for them)",
    ]
    assert summary["outside_information"] == manifest["outside_information"] == said
    assert manifest["student_sha256"] == digest
    assert "Nothing but the teacher itself" not in (out / "report.html").read_text()
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(teacher_run / "model.safetensors", broken)
    (broken / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json cannot be used"):
        dreamstill.distill(student_checkpoint=str(broken), out=str(tmp_path / "no"), **settings)
    assert not (tmp_path / "no").exists()
    # As it is where a run was killed at its very end.
    (out / "report.html").unlink()
    manifest["student_sha256"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="the student's first weights are not those"):
        dreamstill.distill(out=str(out), resume=True)


@pytest.mark.slow
def test_what_is_returned_may_be_a_student_again(tmp_path):
    first = distil(tmp_path / "a", steps=2)
    assert not first.training
    second = dreamstill.distill(
        tiny_network((6, 8), 0), first, method=SMALL, steps=2, out=str(tmp_path / "b"), onnx=False, **FIXED
    ).student
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_one_image_a_batch_and_a_batch_norm_after_pooling(tmp_path):
    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm1d(4)
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(self.norm(self.conv(x).mean((2, 3))))

    with pytest.raises(InputError, match=r"\(norm\): give a batch_size of at least 2"):
        dreamstill.distill(
            tiny_network((6, 8), 0), Pooled(), method={"name": "noise", "batch_size": 1}, num_classes=4,
            image_size=8, steps=2, out=str(tmp_path / "a"), **FIXED,
        )  # fmt: skip


def test_a_recipes_set_size_without_its_set_is_said_to_change_nothing(tmp_path, capsys):
    distil(tmp_path / "a", steps=2, set_size=16)
    assert "set_size is 16 and changes nothing" in capsys.readouterr().out


def test_a_repeat_finds_its_sets_from_another_folder(tmp_path, monkeypatch):
    digits_folder(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    distil(tmp_path / "a", method={"name": "real_data", "batch_size": 8}, steps=2, data="set", real="set")
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["data"] == config["real"] == str(tmp_path / "set")


def test_a_teacher_without_batch_norm(tmp_path):
    bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    facts = {"image_size": 8, "num_classes": 4, "channels": 1, "mean": [0.3], "std": [0.4]}
    arguments = {**facts, "out": str(tmp_path / "a"), **FIXED}
    with pytest.raises(InputError, match="batch-norm"):
        dreamstill.distill(bare, tiny_network((3, 4), 1), method=SMALL, steps=4, **arguments)
    assert not (tmp_path / "a").exists()
    # DFAD, that is alpha = 0, reads no statistics.
    dreamstill.distill(bare, tiny_network((3, 4), 1), method={**SMALL, "alpha": 0.0}, steps=4, onnx=False, **arguments)


def test_probabilities_are_not_logits(tmp_path):
    teacher = torch.nn.Sequential(tiny_network((6, 8), 0).module, torch.nn.Softmax(1))
    with pytest.raises(InputError, match="probabilities"):
        dreamstill.distill(
            teacher, tiny_network((3, 4), 1), image_size=8, num_classes=4, channels=1, mean=[0.3], std=[0.4],
            out=str(tmp_path / "a"), **FIXED,
        )  # fmt: skip
    assert not (tmp_path / "a").exists()


def test_an_image_size_the_generator_cannot_make(tmp_path):
    teacher, student = tiny_network((6, 8), 0, image_size=10), tiny_network((3, 4), 1, image_size=10)
    with pytest.raises(InputError, match="multiples of 4"):
        dreamstill.distill(teacher, student, method="ddad", out=str(tmp_path / "a"), **FIXED)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_dry_run_estimates_and_writes_nothing(tmp_path, capsys):
    assert distil(tmp_path / "a", dry_run=True, quiet=False) is None
    said = capsys.readouterr().out
    assert all(word in said for word in ("steps", "time", "memory", "disk"))
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_minutes_are_kept(tmp_path, monkeypatch):
    """By a clock that stands still, on a machine that takes half a second an iteration of two student steps."""
    trial = budget.Trial({"distil": 0.5}, first=1.0, memory=0, checkpoint=0, bank=0, watching=3.5)
    monkeypatch.setattr(budget, "measure", lambda *_, **__: trial)
    monkeypatch.setattr(resolving, "_reached", lambda: 1e15)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    distil(tmp_path / "a", steps=None, minutes=1.1)
    # Of 66 s, 12 are for finishing, 1.3 for the certificate, 3.5 for the evaluations and one for the first iteration.
    assert budget.FINISHING_SECONDS == 12
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["steps"] == 2 * 96
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["steps"] == 2 * 96


@pytest.mark.slow
def test_the_demo_in_short(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = api.train
    monkeypatch.setattr(api, "train", lambda *a, **settings: train(*a, **{**settings, "epochs": 1}))
    assert cli.main(["demo", "--steps", "30"]) == 0
    said = capsys.readouterr().out
    assert "report.html" in said
    assert "accuracy" in said
    summary = json.loads(Path("runs/demo/summary.json").read_text())
    assert summary["student"]["params"] * 10 <= summary["teacher"]["params"]
    # Again: an earlier demo is replaced, anything else is not.
    Path("runs/mine").mkdir()
    Path("runs/mine/config.yaml").write_text("data: digits\nsteps: 10\n")
    assert cli.main(["demo", "--steps", "20", "--quiet"]) == 0
    # Whole iterations of three student steps.
    assert json.loads(Path("runs/demo/summary.json").read_text())["steps"] == 21
    assert cli.main(["demo", "--steps", "20", "--out", "runs/mine", "--quiet"]) == 2
    assert Path("runs/mine/config.yaml").exists()


@pytest.mark.parametrize("bare", [True, False])
def test_the_teacher_that_was_given_stays_as_it_was(bare, tmp_path):
    teacher = tiny_network((6, 8), 0).train()
    facts = {"image_size": 8, "num_classes": 4, "channels": 1, "mean": [0.3], "std": [0.4]} if bare else {}
    given = teacher.module if bare else teacher
    before = copy.deepcopy(given.state_dict())
    dreamstill.distill(
        given, tiny_network((3, 4), 1), method={"name": "noise", "batch_size": 8}, steps=1, out=str(tmp_path / "a"),
        onnx=False, **{**FIXED, "precision": "64"}, **facts,
    )  # fmt: skip
    assert given.training
    assert all(p.requires_grad for p in given.parameters())
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in given.state_dict().items())


def test_images_drawn_for_the_report_are_not_counted_as_the_students(tmp_path):
    distil(tmp_path / "a", method={"name": "noise", "batch_size": 8}, steps=3)
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["images_synthesised"] == 24


def test_pretrained_weights_inside_a_student_are_outside_information():
    told = DistillSettings(student_args={"encoder_weights": "imagenet", "width": 3, "weights": None})
    assert student_weights(told).outside == ("the student's encoder_weights: imagenet",)


def test_arguments_of_a_network_that_cannot_be_written_down_are_refused():
    module = tiny_network((3, 4), 1).module
    with pytest.raises(InputError, match="give plain values"):
        Network(module, num_classes=4, image_size=8, channels=1, kwargs={"layer": torch.nn.ReLU})


@pytest.mark.parametrize(("name", "function"), [("certificate", "certify"), ("spread", "feature_spread")])
def test_what_is_looked_at_afterwards_does_not_cost_a_finished_run(name, function, tmp_path, monkeypatch):
    from dreamstill.commands import distill

    def short(_done):
        raise RuntimeError("not enough memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(distill, function, short)
    distil(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "not enough memory" in summary[f"{name}_error"]
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "student.safetensors").exists()
