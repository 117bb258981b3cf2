"""Going on with a stopped run: what is compared, what a run folder may not choose, what no longer is the same."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.images import digits_folder
from helpers.networks import tiny_network
from helpers.runs import FIXED, SMALL, distil, stopped_run
from safetensors.torch import load_file

import dreamstill
from dreamstill import cli
from dreamstill.errors import InputError
from dreamstill.networks.load import save_network
from dreamstill.runs import resume
from dreamstill.runs.settings import DistillSettings

TRAP = """
import pathlib

def make(**_):
    pathlib.Path('trapped').touch()
    raise RuntimeError

class Trap:
    pass
"""


def edited(run, **changes):
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def own(tmp_path, monkeypatch):
    (tmp_path / "evilmod.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def trained(out, **changes):
    settings = {"data": "digits", "network_args": {"widths": [2, 3]}, "epochs": 0.1, "crop": 1, **changes}
    return dreamstill.train("convnet", out=str(out), quiet=True, precision="32", compile="off", **settings)


def stopped_training(out, **changes):
    trained(out, **changes)
    for name in ("report.html", "summary.json", "model.safetensors"):
        (out / name).unlink()
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"student": "evilmod:make"},
        {"teacher": "evilmod:make"},
        {"method": {"name": "evilmod:Trap"}},
        {"student": "shared_classifier", "student_args": {"base": "evilmod:make"}},
    ],
)
def test_a_run_folder_does_not_choose_which_code_is_called(changes, tmp_path, monkeypatch, capsys):
    own(tmp_path, monkeypatch)
    out = stopped_run(tmp_path / "a")
    edited(out, **changes)
    assert cli.main(["distill", "--resume", "--out", str(out), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "evilmod:" in said
    assert "--trust-code" in said
    assert not (tmp_path / "trapped").exists()


def test_code_that_is_named_again_or_trusted_is_called(tmp_path, monkeypatch):
    own(tmp_path, monkeypatch)
    teacher = tiny_network((6, 8), 0)
    out = stopped_run(tmp_path / "a")
    edited(out, student="evilmod:make", student_args={})
    for trust in ({"student": "evilmod:make"}, {"unsafe_load": True}, {"trust_code": True}):
        with pytest.raises(InputError, match="evilmod:make raised RuntimeError"):
            dreamstill.distill(teacher, out=str(out), resume=True, **trust, **FIXED)
        (tmp_path / "trapped").unlink()


class Opened:
    """A pickle that touches a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_run_folder_does_not_allow_itself_to_unpickle(tmp_path, capsys):
    """unsafe_load in its config.yaml was taken for the user's own."""
    out = stopped_run(tmp_path / "a")
    (out / "teacher.pt").write_bytes(pickle.dumps(Opened(tmp_path / "trapped")))
    edited(out, unsafe_load=True, teacher="convnet", teacher_checkpoint=str(out / "teacher.pt"))
    assert cli.main(["distill", "--resume", "--out", str(out), "--quiet"]) == 2
    assert "--unsafe-load" in capsys.readouterr().err
    assert not (tmp_path / "trapped").exists()


def test_a_run_folder_does_not_choose_where_it_goes_on(tmp_path, capsys):
    out = stopped_training(tmp_path / "a")
    edited(out, out=str(tmp_path / "elsewhere"), resume=False)
    assert cli.main(["train", "--resume", "--out", str(out), "--quiet"]) == 0, capsys.readouterr().err
    assert (out / "model.safetensors").exists()
    assert not (tmp_path / "elsewhere").exists()


def test_training_does_not_call_what_the_folder_names(tmp_path, monkeypatch, capsys):
    own(tmp_path, monkeypatch)
    out = stopped_training(tmp_path / "a")
    edited(out, network="evilmod:make")
    assert cli.main(["train", "--resume", "--out", str(out), "--quiet"]) == 2
    assert "evilmod:make" in capsys.readouterr().err
    assert not (tmp_path / "trapped").exists()


def test_training_goes_on_by_its_folder_alone(tmp_path, capsys):
    out = stopped_training(tmp_path / "a")
    assert cli.main(["train", "--resume", "--out", str(out), "--quiet"]) == 0, capsys.readouterr().err
    assert (out / "model.safetensors").exists()
    assert cli.main(["train", "--data", "digits"]) == 2
    assert "no network" in capsys.readouterr().err


def test_training_refuses_another_set_of_images(tmp_path):
    source = digits_folder(tmp_path / "set")
    out = stopped_training(tmp_path / "a", data=source, batch_size=8, epochs=1)
    assert len(json.loads((out / "manifest.json").read_text())["real_sha256"]) == 64
    digits_folder(tmp_path / "set", seed=1)
    with pytest.raises(InputError, match=r"training images.*not those"):
        dreamstill.train(out=str(out), resume=True, quiet=True)
    digits_folder(tmp_path / "set")
    dreamstill.train(out=str(out), resume=True, quiet=True)


def test_a_control_refuses_another_set_of_images(tmp_path):
    source = digits_folder(tmp_path / "set")
    networks = tiny_network((6, 8), 0), tiny_network((3, 4), 1)
    control = {"method": {"name": "real_data", "batch_size": 8}, "real": source, "steps": 3, "onnx": False, **FIXED}
    dreamstill.distill(*networks, out=str(tmp_path / "a"), **control)
    (tmp_path / "a" / "report.html").unlink()
    digits_folder(tmp_path / "set", seed=1)
    with pytest.raises(InputError, match=r"training images.*not those"):
        dreamstill.distill(*networks, out=str(tmp_path / "a"), resume=True, **FIXED)


@pytest.mark.parametrize(
    ("words", "said", "unsaid"),
    [
        (["--minutes", "0"], "--minutes", "positive"),
        (["--seed", "0"], "seed is 0 now and the run in", "method"),
        (["--evaluations", "10"], "evaluations is 10 now", "seed"),
        (["--method", "ddad", "--method.alpha", "7"], "method.alpha is 7.0 now", "batch_size"),
        (["--method", "cgdd"], "method.name is cgdd now", "batch_size"),
    ],
)
def test_what_is_typed_is_compared_even_where_it_is_the_default(words, said, unsaid, tmp_path, monkeypatch, capsys):
    out = stopped_run(tmp_path / "a")
    save_network(tmp_path / "teacher.safetensors", tiny_network((6, 8), 0))
    edited(out, seed=3, evaluations=4)
    assert cli.main(["distill", "--resume", "--out", str(out), "--quiet", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert unsaid not in error


@pytest.mark.slow
def test_the_same_settings_in_other_words_go_on(tmp_path):
    out = stopped_run(tmp_path / "a")
    networks = tiny_network((6, 8), 0), tiny_network((3, 4), 1)
    dreamstill.distill(
        *networks,
        method={**SMALL, "lr_s": "1e-1"},
        image_size=[8, 8],
        mean=[0.300000001],
        out=str(out),
        resume=True,
        **FIXED,
    )
    assert (out / "report.html").exists()


def test_how_often_checkpoints_are_made_may_change(tmp_path):
    out = stopped_run(tmp_path / "a")
    teacher, student = tiny_network((6, 8), 0), tiny_network((3, 4), 1)
    given = DistillSettings(
        teacher=teacher, student=student, out=str(out), resume=True, checkpoint_seconds=7, checkpoint_steps=3
    )
    found = resume.resumed(given)
    assert (found.checkpoint_seconds, found.checkpoint_steps) == (7, 3)
    assert (found.steps, found.seed, found.teacher, found.out) == (12, 0, teacher, str(out))  # all else is the run's


def test_a_run_of_the_other_command_is_named(tmp_path, capsys):
    out = stopped_training(tmp_path / "a")
    assert cli.main(["distill", "--resume", "--out", str(out), "--quiet"]) == 2
    assert "belongs to a run of dreamstill train: resume it with dreamstill train --resume" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [("steps", 13), ("seed", 1), ("precision", "64"), ("method", {**SMALL, "alpha": 0.25})]
)
def test_settings_that_were_changed_in_the_file_are_refused(name, value, tmp_path):
    """One flipped bit makes 12 steps 13, and the run went on with another schedule."""
    out = stopped_run(tmp_path / "a")
    edited(out, **{name: value})
    with pytest.raises(InputError, match=r"the settings in .*config.yaml are not those that the run began with"):
        dreamstill.distill(tiny_network((6, 8), 0), tiny_network((3, 4), 1), out=str(out), resume=True)


@pytest.mark.slow
def test_where_files_lie_and_how_a_run_is_watched_may_be_changed_in_the_file(tmp_path):
    out = stopped_run(tmp_path / "a")
    edited(out, data_root=str(tmp_path), checkpoint_seconds=7.0)
    dreamstill.distill(tiny_network((6, 8), 0), tiny_network((3, 4), 1), out=str(out), resume=True, quiet=True)
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_some_steps_and_not_the_result(tmp_path, capsys):
    """The newest state has a flipped bit: the run goes on from the one before, to the same student."""
    distil(tmp_path / "whole", checkpoint_steps=5)
    out = stopped_run(tmp_path / "a", checkpoint_steps=5)
    state = max((out / "checkpoint").glob("state-*.pt"), key=lambda p: int(p.stem.split("-")[1]))
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    dreamstill.distill(tiny_network((6, 8), 0), tiny_network((3, 4), 1), out=str(out), resume=True, quiet=True)
    assert f"{state.name} is damaged" in capsys.readouterr().out
    whole, resumed = (load_file(folder / "student.safetensors") for folder in (tmp_path / "whole", out))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_says_that_it_starts_again(tmp_path, capsys):
    out = stopped_run(tmp_path / "a")
    shutil.rmtree(out / "checkpoint")
    dreamstill.distill(tiny_network((6, 8), 0), tiny_network((3, 4), 1), out=str(out), resume=True, quiet=True)
    assert "holds no checkpoint yet: the run starts from its first iteration" in capsys.readouterr().out
