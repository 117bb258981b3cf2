"""The commands, as people type them."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from dreamstill import cli, methods
from dreamstill.commands.helptext import EXAMPLES, GROUPS
from dreamstill.errors import InputError
from dreamstill.networks import builtin
from dreamstill.runs.settings import build_method, method_spec


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        (["distill", "--num-classes", "10"], ["distill", "--num_classes", "10"]),
        (["distill", "--method", "ddad", "--method.lr-s=1"], ["distill", "--method.name", "ddad", "--method.lr_s=1"]),
        (["distill", "--method.alpha", "0.1"], ["distill", "--method.alpha", "0.1", "--method.name=auto"]),
        (["distill", "--method.alpha=1", "--config", "a"], ["distill", "--method.alpha=1", "--config", "a"]),
        (["distill", "--method=ddad"], ["distill", "--method.name=ddad"]),
        (["distill", "--method", "{name: cgdd}"], ["distill", "--method", "{name: cgdd}"]),
        (
            ["distill", "--method={name: cgdd}", "--method.eta", "1"],
            ["distill", "--method={name: cgdd}", "--method.eta", "1"],
        ),
        (["distill", "--resume", "--out", "a-b"], ["distill", "--resume=true", "--out", "a-b"]),
        (["distill", "--resume", "false"], ["distill", "--resume", "false"]),
        (["distill", "--no-onnx"], ["distill", "--onnx=false"]),
        (["evaluate", "runs/a-b", "--data", "digits"], ["evaluate", "--run", "runs/a-b", "--data", "digits"]),
        (["train", "wrn_16_2", "--flip"], ["train", "--network", "wrn_16_2", "--flip=true"]),
        (["compare", "a", "b", "--out", "c"], ["compare", "--runs", '["a", "b"]', "--out", "c"]),
        (["methods", "--json"], ["methods", "--json=true"]),
        (["methods", "ddad"], ["methods", "--name", "ddad"]),
        (["distill", "--image-size", "32x48"], ["distill", "--image_size", "[32,48]"]),
        (["distill", "--set-size=64X64"], ["distill", "--set_size=[64,64]"]),
        (["distill", "--mean", "0.5", "--std", "0.2,0.3,0.4"], ["distill", "--mean", "0.5", "--std", "[0.2,0.3,0.4]"]),
        (["distill", "--steps", "1e3", "--seed=2e0"], ["distill", "--steps", "1000", "--seed=2"]),
        (["distill", "--checkpoint", "a"], ["distill", "--teacher_checkpoint", "a"]),
        (["doctor", "a", "--teacher-checkpoint", "b"], ["doctor", "--teacher", "a", "--checkpoint", "b"]),
    ],
)  # fmt: skip
def test_what_people_type(typed, parsed):
    assert cli.normalise(typed) == parsed


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_each_command_has_its_options_once_in_a_group_and_examples(command, capsys):
    assert cli.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    function, first = cli.COMMANDS[command]
    for name in inspect.signature(function).parameters:
        shown = f"  {first.upper()} " if name == first else f"  --{name.replace('_', '-')}"
        assert sum(line.startswith((shown + " ", shown + ",")) or line == shown for line in said.splitlines()) == 1 or (
            name == first and shown in said
        ), name
    assert "In Python" not in said
    assert not re.search(r"``|:class:|type: |default: null|=None", said)
    assert max(map(len, said.split("examples")[0].splitlines())) <= 110
    for example in EXAMPLES.get(command, ()):
        assert example in said
        assert cli.build_parser(command).parse_args(cli.normalise(example.split()[1:])).command == command


def test_the_groups_of_the_help_are_complete():
    for command, groups in GROUPS.items():
        names = [name for group in groups.values() for name in group]
        assert sorted(names) == sorted(inspect.signature(cli.COMMANDS[command][0]).parameters)


def test_a_methods_own_settings_are_in_the_help(capsys):
    assert cli.main(["distill", "--method", "cgdd", "--help"]) == 0
    said = capsys.readouterr().out
    assert "settings of the method cgdd" in said
    for field in fields(methods.get("cgdd")):
        assert f"--method.{field.name.replace('_', '-')} " in said, field.name
    assert cli.main(["distill", "--help"]) == 0
    assert "--method NAME --help" in capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert "  distill " in capsys.readouterr().out


def test_help_explains_every_argument_and_is_quick():
    """Quick, because it imports none of the libraries that take seconds: a clock would measure the machine too."""
    command = [sys.executable, "-X", "importtime", "-m", "dreamstill", "distill", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "dreamstill.cli" in imported
    assert not imported & {
        "torch",
        "lightning",
        "torchmetrics",
        "sklearn",
        "matplotlib",
        "onnx",
        "onnxruntime",
        "pyarrow",
    }
    words = done.stdout.split()
    for name, function in ((n, f) for n, (f, _) in cli.COMMANDS.items()):
        documented = function.__doc__
        for argument in function.__code__.co_varnames[: function.__code__.co_argcount]:
            assert f"{argument}:" in documented, f"{name} does not explain {argument}"
            if name == "distill":
                assert any(w.startswith("--" + argument.replace("_", "-")) for w in words), argument


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["distill", "--steps", "many"], "--steps expects a whole number, got 'many'"),
        (["distill", "--stepz", "5"], "has no option --stepz: did you mean --steps?"),
        (["distill", "--techer", "lenet5"], "did you mean --teacher"),
        (["distill", "--metod", "ddad"], "did you mean --method?"),
        (["distil"], "there is no command 'distil': did you mean distill?"),
        (["distill", "--minutes", "0.01"], "--minutes 0.01 is 0.6 s"),
        (["distill", "--method", "dadd"], "did you mean ddad?"),
        (["distill", "--method.alhpa", "1"], "did you mean alpha?"),
        (["distill", "--precision", "16"], "--precision expects one of auto, 32, bf16, 64, got '16'"),
        (["distill", "--minutes", "a"], "--minutes expects a number, got 'a'"),
        (["doctor", "nosuch"], "there is no built-in network 'nosuch'"),
        (["frobnicate"], "frobnicate"),
        (["distill"], "no teacher"),
        (["distill", "--teacher", "wrn_16_2"], "--teacher-checkpoint"),
        (["train", "convnet"], "--data"),
        (["train", "convnot", "--data", "digits"], "convnet"),
        (["evaluate", "nowhere", "--data", "digits"], "nowhere"),
        (["doctor", "convnet"], "num_classes"),
        (["distill", "--resume"], "--out"),
        (["distill", "--method", "ddae"], "ddad"),
        (["distill", "--method", "ddad", "--method.alpha", "much"], "alpha"),
        (["distill", "--method.alpah", "1"], "alpah"),
        (["methods", "ddae"], "there is no method 'ddae'"),
        (["distill", "--seed", "1e23"], "--seed expects a whole number, got '1e+23'"),
        (["demo", "--steps", "0"], "steps is 0"),
        (["demo", "--steps", "-5"], "steps is -5"),
        (["synthesize", "run", "--out", "im.npz"], "ends in .parquet or .safetensors"),
        (["synthesize", "run", "--seed", "-1"], "seed is -1"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_code_2(typed, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(typed) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert error.startswith("dreamstill: ")
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dreamstill ")


def test_methods_as_json(capsys):
    assert cli.main(["methods", "--json"]) == 0
    rows = {r["name"]: r for r in json.loads(capsys.readouterr().out)}
    assert {"ddad", "noise", "random_generator", "real_data"} <= rows.keys()
    assert rows["ddad"]["needs"] == ["bn", "input_gradient", "sides"]
    assert rows["real_data"]["kind"] == "control"
    assert rows["real_data"]["outside"]
    assert rows["ddad"]["settings"]["alpha"] == 1.0


def test_the_settings_of_one_method(capsys):
    assert cli.main(["methods", "noise", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert {r["name"]: r["range"] for r in row["explained"]}["tau"] == "above 0"


@pytest.mark.parametrize(("words", "name"), [(["doctor", "--checkpoint", "a.pt"], "teacher"), (["evaluate"], "run")])
def test_what_is_missing_is_named_as_in_the_help(words, name, capsys):
    assert cli.main(words) == 2
    assert f"dreamstill: the {name} is missing: it is the first word after the command" in capsys.readouterr().err


def test_a_recipe_with_an_unknown_key(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"teacher": "convnet", "wings": 2}))
    assert cli.main(["distill", "--config", str(recipe)]) == 2
    assert "wings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [(bytes(range(256)), "cannot be read"), (b"", "is empty"), (b"a: [1\nb: {", "cannot be read"), (b"- 1", "a list")],
)
def test_a_recipe_that_is_none(content, said, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(content)
    for words in (["--config", str(recipe)], [f"--config={recipe}"]):
        assert cli.main(["distill", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert f"the recipe {recipe}" in error
        assert said in error
        assert "\n" not in error
    assert cli.main(["distill", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


class TestMethodSettings:
    def test_numbers_in_any_spelling(self):
        method = build_method({"name": "ddad", "lr_s": "2e-3", "batch_size": "64"})
        assert method.lr_s == 0.002
        assert method.batch_size == 64
        assert isinstance(method.batch_size, int)

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ({"name": "ddad", "alhpa": 1}, "no alhpa"),
            ({"alpha": 1}, "no name"),
            (
                {"name": "ddad", "bn_form": "maha"},
                "--method.bn_form expects one of norm, gaussian_kl, squared, got 'maha'",
            ),
            ({"name": "ddad", "alpha": "much"}, "--method.alpha expects a number or auto, got 'much'"),
            ({"name": "ddad", "batch_size": 0}, "batch_size is 0: it must be at least 1"),
            ({"name": "ddad", "lr_s": -1.0}, "lr_s is -1.0: it must be at least 0"),
            ({"name": "ddad", "alpha": float("nan")}, "alpha"),
            (7, "method is 7"),
        ],
    )
    def test_mistakes(self, spec, said):
        with pytest.raises(InputError, match=said):
            build_method(spec)

    @pytest.mark.parametrize("word", ["on", "off"])
    def test_a_choice_of_a_word_that_yaml_reads_as_a_truth_value(self, word):
        typed = cli.normalise(["distill", "--method", "soft_target", "--method.centre", word])
        parsed = cli.build_parser("distill").parse_args(typed)["distill"]["method"]
        assert build_method(parsed).centre == word
        assert build_method({"name": "soft_target", "centre": yaml.safe_load(word)}).centre == word
        assert build_method({"name": "soft_target", "centre": word}).centre == word

    def test_a_truth_value_stays_where_no_choice_is_a_word_for_it(self):
        assert build_method({"name": "cgdd", "mask": False}).mask is False
        with pytest.raises(InputError, match="head"):
            build_method({"name": "cgdd", "head": True})

    def test_an_object_is_taken_as_it_is(self):
        from dreamstill.methods.ddad import DDAD

        assert method_spec(DDAD(alpha=0.5))["alpha"] == 0.5
        assert method_spec(DDAD())["name"] == "ddad"


MINE = """
from dataclasses import dataclass
from dreamstill.networks import builtin
from dreamstill.methods.controls.noise import Noise as Base

@dataclass
class Noise(Base):
    pass

def make(width=4):
    return builtin.build("convnet", num_classes=10, channels=1, image_size=8, widths=(width, 6))
"""


@pytest.mark.slow
def test_a_network_and_a_method_in_the_folder_one_stands_in(tmp_path, monkeypatch, capsys):
    """A separate process, because this one's search path knows the tests already."""
    (tmp_path / "mine.py").write_text(MINE)
    weights = builtin.build("convnet", num_classes=10, channels=1, image_size=8, widths=(4, 6)).state_dict()
    torch.save(weights, tmp_path / "teacher.pt")
    words = [
        "distill",
        "--teacher",
        "mine:make",
        "--teacher-checkpoint",
        "teacher.pt",
        "--student",
        "mine:make",
        "--student-args",
        "{width: 2}",
        "--steps",
        "3",
    ]
    words += ["--num-classes", "10", "--image-size", "8", "--channels", "1", "--mean", "[0.3]", "--std", "[0.4]"]
    words += ["--method", "mine:Noise", "--method.batch-size", "8", "--no-onnx", "--out", "run", "--quiet"]
    program = str(Path(sys.executable).with_name("dreamstill"))
    done = subprocess.run([program, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["method"] == "mine:Noise"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # Made here by this user, it needs no word of trust.
    assert cli.main(["evaluate", "run", "--data", "digits", "--limit", "5"]) == 0
    assert "agreement" in capsys.readouterr().out
    # A file from elsewhere must not choose which code is called: the student's own name is not enough.
    monkeypatch.setenv("DREAMSTILL_CACHE", str(tmp_path / "of another user"))
    assert cli.main(["evaluate", "run", "--data", "digits", "--limit", "5"]) == 2
    assert "mine:make" in (said := capsys.readouterr().err)
    assert "--trust-code" in said
    assert cli.main(["evaluate", "run", "--data", "digits", "--limit", "5", "--trust-code"]) == 0


@pytest.mark.parametrize("name", [":f", "json:dumps", "nowhere.at.all:X"])
def test_what_is_no_method(name):
    with pytest.raises(InputError):
        build_method({"name": name})


def test_the_folder_one_stands_in_is_searched_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert cli.main(["methods", "--json"]) == 0
    assert sys.path[-1] == str(tmp_path)


def test_an_interrupted_run_ends_with_130_and_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    interrupted.__signature__ = inspect.signature(cli.api.methods)
    interrupted.__doc__ = cli.api.methods.__doc__
    interrupted.__annotations__ = cli.api.methods.__annotations__
    monkeypatch.setitem(cli.COMMANDS, "methods", (interrupted, None))
    assert cli.main(["methods"]) == 130
    assert "--resume --out FOLDER" in capsys.readouterr().err


def test_what_is_divided_by_is_not_zero():
    known = [
        (name, f.name) for name in methods.names() for f in fields(methods.get(name)) if f.name in ("tau", "every")
    ]
    assert ("random_generator", "every") in known
    for name, field in known:
        with pytest.raises(InputError, match=rf"{field} is 0.*must be (above 0|at least 1)"):
            build_method({"name": name, field: 0})
