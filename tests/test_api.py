"""The public functions: their settings, what they leave of the caller's process, what their names are."""

import inspect
import logging
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from typing import get_type_hints

import numpy as np
import pytest
import torch
from helpers.networks import tiny_network
from helpers.runs import FIXED, SMALL, distil

import dreamstill
from dreamstill import api
from dreamstill.errors import InputError
from dreamstill.runs import settings

PAIRS = [
    (api.distill, settings.DistillSettings),
    (api.train, settings.TrainSettings),
    (api.evaluate, settings.EvaluateSettings),
    (api.export, settings.ExportSettings),
    (api.doctor, settings.DoctorSettings),
    (api.profile, settings.ProfileSettings),
]


@pytest.mark.parametrize(("function", "kind"), PAIRS, ids=lambda value: value.__name__)
def test_a_command_and_its_settings_have_the_same_names_types_and_defaults(function, kind):
    parameters = [
        (p.name, MISSING if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
    ]
    assert parameters == [(f.name, f.default) for f in fields(kind)]
    written = {k: v for k, v in function.__annotations__.items() if k != "return"}
    shown = get_type_hints(type("shown", (), {"__annotations__": written}), vars(sys.modules[function.__module__]))
    assert shown == {name: hint for name, hint in get_type_hints(kind).items() if name in written}


@pytest.mark.parametrize(("function", "kind"), PAIRS, ids=lambda value: value.__name__)
def test_a_function_hands_every_argument_on(function, kind, monkeypatch):
    """Each under its own name: a slip would be a setting that nothing obeys."""
    marks = {name: object() for name in inspect.signature(function).parameters}
    made = []
    monkeypatch.setattr(
        sys.modules[function.__module__], kind.__name__, lambda **given: made.append(given) or pytest.fail.Exception
    )
    with pytest.raises(Exception):  # noqa: B017  # nothing can be run with such settings
        function(**marks)
    assert made == [marks]


@pytest.mark.parametrize(
    ("function", "positional"),
    [
        (api.distill, ["teacher", "student"]),
        (api.train, ["network", "data"]),
        (api.synthesize, ["run"]),
        (api.evaluate, ["run"]),
        (api.export, ["run"]),
        (api.doctor, ["teacher"]),
        (api.methods, ["name"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_all_but_the_first_are_given_by_name(function, positional):
    parameters = inspect.signature(function).parameters.values()
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == positional


@pytest.mark.slow
def test_the_callers_random_streams_go_on_as_if_nothing_had_run(tmp_path):
    import random

    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    def seed():
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002
        random.seed(7)

    teacher, run = str(tmp_path / "teacher"), str(tmp_path / "run")
    own = {"teacher_checkpoint": teacher, "student": "convnet", "student_args": {"widths": [2, 3]}, "method": SMALL}
    own |= {"steps": 2, "onnx": False, "out": run, **FIXED}
    calls = {
        "train": lambda: dreamstill.train(
            "convnet", "digits", network_args={"widths": [4, 6]}, epochs=0.1, out=teacher, **FIXED
        ),
        "distill": lambda: dreamstill.distill(**own),
        "synthesize": lambda: dreamstill.synthesize(run, n=4),
        "evaluate": lambda: dreamstill.evaluate(run, data="digits"),
    }
    seed()
    expected = draws()
    for name, call in calls.items():
        seed()
        call()
        assert draws() == expected, name
    seed()
    with pytest.raises(InputError):  # a run that fails puts them back too
        dreamstill.distill(**own)
    assert draws() == expected


NAMES = """
import sys
{first}
import dreamstill
from dreamstill import doctor, methods
assert {{row["name"] for row in dreamstill.methods()}} >= {{"ddad", "noise"}}
assert methods()[0]["name"] and methods.get("ddad").__name__ == "DDAD"
import dreamstill.methods.cgdd, dreamstill.commands.doctor, dreamstill.commands.methods
assert len(dreamstill.methods()) == len(methods())
assert callable(doctor) and doctor is dreamstill.doctor is dreamstill.api.doctor
assert sys.modules["dreamstill.methods"] is dreamstill.methods
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import dreamstill.methods.ddad", "from dreamstill.methods import Method"])
def test_methods_and_doctor_are_functions_whatever_was_imported_before(first):
    done = subprocess.run([sys.executable, "-c", NAMES.format(first=first)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_is_imported_without_torch():
    code = "import sys, dreamstill; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_only_public_names_are_listed():
    assert {"distill", "InputError", "Result", "load_student"} <= set(dir(dreamstill))
    assert not {"api", "runs", "networks", "commands", "Any", "ModuleType"} & set(dir(dreamstill))
    assert all(hasattr(dreamstill, name) for name in dir(dreamstill))
    assert issubclass(dreamstill.InputError, dreamstill.DreamstillError)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": "ten"}, "steps is 'ten', of the type str: expected at least 1"),
        ({"steps": 2.5}, "steps is 2.5, of the type float"),
        ({"steps": True}, "steps is True"),
        ({"mean": "grey"}, "mean is 'grey'"),
        ({"onnx": 1}, "onnx is 1, of the type int: expected true, false"),
        ({"minutes": 0.01}, "--minutes 0.01 is 0.6 s"),
    ],
)
def test_a_wrong_type_is_a_sentence_before_anything_is_written(changes, said, tmp_path):
    with pytest.raises(InputError, match=re.escape(said)):
        dreamstill.distill("convnet", "convnet", out=str(tmp_path / "run"), **changes)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_and_paths_are_taken(tmp_path):
    given = settings.DistillSettings(steps=np.int64(3), mean=np.array([0.5]), std=(0.5,), out=tmp_path, minutes=None)
    given.check()


@pytest.mark.slow
def test_what_is_said_are_log_records(tmp_path, caplog, capsys, monkeypatch):
    log = logging.getLogger("dreamstill")
    monkeypatch.setattr(log, "handlers", [])  # the tests show what is said as the command line does
    monkeypatch.setattr(log, "propagate", True)
    for level in ("INFO", "WARNING"):
        caplog.clear()
        with caplog.at_level(level, logger="dreamstill"):
            distil(tmp_path / level, quiet=False, steps=4)
        said = [record.getMessage() for record in caplog.records]
        assert any(line.startswith("convnet to convnet: 1 of") for line in said) == (level == "INFO")
    assert capsys.readouterr().out == ""


def test_a_distillation_returns_its_result(tmp_path):
    networks = tiny_network((6, 8), 0), tiny_network((3, 4), 1)
    result = dreamstill.distill(*networks, method=SMALL, steps=2, onnx=False, out=str(tmp_path / "run"), **FIXED)
    assert isinstance(result, dreamstill.Result)
    assert result.student(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    assert result.folder == tmp_path / "run"
    assert result.report.exists()
    assert result.figures["steps"] == 2
    assert result.verdict["word"] in repr(result)
    assert len(repr(result).splitlines()) <= 10
