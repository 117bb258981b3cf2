"""What is installed, what is imported when, and what is said where a library is missing."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import torch
from helpers.networks import tiny_network

import dreamstill
from dreamstill import api, cli, extras
from dreamstill.data import load, transfer_set
from dreamstill.errors import InputError
from dreamstill.networks.export_onnx import export_onnx
from dreamstill.report import charts, plots
from dreamstill.runs.metrics_log import Tracker

pytestmark = pytest.mark.whole_end

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {module for modules in extras.MODULES.values() for module in modules}
ONE_FORM = {"openvino", "torchao"}  # large, each for one form of export
OPTIONAL |= {"huggingface_hub", "torchvision", "segmentation_models_pytorch", "timm"}


def distributions(requirements):
    return {re.match(r"[\w-]+", r)[0].lower() for r in requirements}


def run(code, *words):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


@pytest.fixture
def without(monkeypatch):
    """Hides the modules of an extra, as if nobody had installed them."""

    def hide(*names):
        for extra in names:
            for module in extras.MODULES[extra]:
                monkeypatch.setitem(sys.modules, module, None)

    return hide


# ---------------------------------------------------------------- what an extra is


def test_each_extra_brings_the_modules_that_are_looked_for():
    brings = packages_distributions()
    for extra, modules in extras.MODULES.items():
        found = {name.lower() for module in modules for name in brings[module]}
        assert found == distributions(PROJECT["optional-dependencies"][extra]), extra


def test_all_is_every_extra_that_a_user_may_want():
    every = set(PROJECT["optional-dependencies"])
    (listed,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.search(r"\[(.*)\]", listed)[1].split(",")) == every - {"all", "dev", "docs", *ONE_FORM}


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert version("dreamstill") == dreamstill.__version__


# ---------------------------------------------------------------- what is imported when


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda p: p.stem)
def test_no_file_imports_an_optional_library_before_it_is_needed(path):
    def at_import(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield child.module or ""
            yield from at_import(child)

    found = {name.split(".")[0] for name in at_import(ast.parse(path.read_text()))}
    assert not found & OPTIONAL


BEFORE = "import sys; before = set(sys.modules)\n"
AFTER = "\nprint('+'.join({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names))"


def test_import_dreamstill_imports_nothing_else():
    done = run(BEFORE + "import dreamstill" + AFTER)
    assert done.stdout.split() == ["dreamstill"], done.stderr


@pytest.mark.parametrize("words", [["--help"], ["distill", "--help"], ["--version"]], ids="_".join)
def test_help_imports_what_reads_arguments_and_no_more(words):
    done = run(BEFORE + "from dreamstill.cli import main; main(sys.argv[1:])" + AFTER, *words)
    imported = set(done.stdout.splitlines()[-1].split("+"))
    assert "jsonargparse" in imported, done.stderr
    needed = distributions(PROJECT["dependencies"]) - {"jsonargparse", "pyyaml"}
    assert not imported & (needed | OPTIONAL | {"PIL"})


def test_the_arguments_of_other_commands_are_not_read():
    parser = cli.build_parser("methods")
    arguments = {name: {a.dest for a in sub._actions} for name, sub in parser._subcommands_action.choices.items()}
    assert "json" in arguments["methods"]
    assert "teacher" not in arguments["distill"]


# ---------------------------------------------------------------- what is said without one

# torchmetrics looks for matplotlib in another way and believes it is there: it has to be imported before.
HIDE = f"import sys, torchmetrics; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)!r}))\n"
MAIN = "from dreamstill.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_a_run_without_any_of_them_says_so_first_and_is_whole(tmp_path):
    torch.manual_seed(0)
    from dreamstill.networks.load import save_network

    save_network(tmp_path / "teacher.safetensors", tiny_network((4, 6), 0))
    words = ["distill", "--teacher-checkpoint", str(tmp_path / "teacher.safetensors"), "--student", "convnet"]
    words += ["--student-args", "{widths: [2, 3]}", "--steps", "3", "--method", "noise", "--method.batch-size", "8"]
    done = run(HIDE + "sys.stderr = sys.stdout\n" + MAIN, *words, "--out", str(tmp_path / "run"))
    lines = [line for line in done.stdout.splitlines() if not line.startswith("warning: the teacher's mean")]
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[0] == f"run folder: {tmp_path / 'run'}"
    assert lines[1] == (
        "left out, because libraries are not installed: student.onnx, the charts in report.html, tensorboard/ "
        "(pip install 'dreamstill[onnx,plots,tracking]')"
    )
    assert lines[2].startswith("convnet to convnet: 1 of")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.yaml", "manifest.json", "metrics.csv", "checkpoint", "student.safetensors", "samples.png",
        "summary.json", "report.html", "README.md",
    }  # fmt: skip
    assert "dreamstill[onnx]" in json.loads((tmp_path / "run" / "summary.json").read_text())["onnx_error"]
    assert "dreamstill[plots]" in (tmp_path / "run" / "report.html").read_text()
    done = run(HIDE + MAIN, "doctor", str(tmp_path / "run"), "--json")
    assert json.loads(done.stdout)["normalisation"]["verdict"] in ("plausible", "implausible"), done.stderr


def test_what_is_there_is_not_said_to_be_missing(without, capsys):
    without("plots")
    extras.say_left_out({"onnx": "student.onnx", "tracking": "tensorboard/"})
    assert capsys.readouterr().err == ""
    extras.say_left_out({"onnx": "student.onnx", "plots": "the charts"})
    said = capsys.readouterr()
    assert said.err == ("left out, because libraries are not installed: the charts (pip install 'dreamstill[plots]')\n")
    assert said.out == ""


def test_only_a_method_that_keeps_a_set_speaks_of_it(without, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(extras, "say_left_out", said.append)
    network = tiny_network((4, 6), 0)
    for method in ({"name": "noise", "batch_size": 8}, {"name": "soft_target", "n_images": 16, "iterations": 1}):
        api.distill(
            network, tiny_network((2, 3), 1), method=method, steps=1, onnx=method["name"] == "noise",
            out=str(tmp_path / method["name"]), quiet=True,
        )  # fmt: skip
    assert [set(files) for files in said] == [{"onnx", "plots", "tracking"}, {"data", "plots", "tracking"}]


@pytest.mark.parametrize("where", ["file", "folder"])
def test_parquet(where, without, tmp_path):
    path = tmp_path / "train.parquet"
    transfer_set.write_parquet(path, [(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.eye(2))], ["a", "b"])
    source = str(path if where == "file" else tmp_path)
    assert len(load.load_images(source, "train")) == 2
    without("data")
    with pytest.raises(InputError, match=r"reading .*train\.parquet needs pyarrow: pip install 'dreamstill\[data\]'"):
        load.load_images(source, "train")
    with pytest.raises(InputError, match=r"reading .*train\.parquet needs pyarrow"):
        next(load.encoded(source, "train", None))
    with pytest.raises(InputError, match=r"reading .*train\.parquet needs pyarrow"):
        transfer_set.read_parquet(path, tiny_network((4, 6), 0))


def test_folders_of_images_need_no_parquet(without, tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a.png").write_bytes(transfer_set.png(torch.zeros(1, 8, 8, dtype=torch.uint8)))
    without("data")
    assert len(load.load_images(str(tmp_path), "test")) == 1


def test_a_set_that_cannot_be_written_is_refused_before_its_images_are_made(without, tmp_path):
    without("data")

    def images():
        raise AssertionError("made")
        yield

    with pytest.raises(InputError, match=r"writing parquet needs pyarrow: pip install 'dreamstill\[data\]'"):
        transfer_set.write_parquet(tmp_path / "a.parquet", images(), ["a"])
    assert not (tmp_path / "a.parquet").exists()


def test_the_demo(without, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    without("demo")
    assert cli.main(["demo", "--quiet"]) == 2
    assert capsys.readouterr().err == ("dreamstill: the set of digits needs sklearn: pip install 'dreamstill[demo]'\n")
    assert list(tmp_path.iterdir()) == []


def test_onnx(without, tmp_path):
    without("onnx")
    needs = r"the export to ONNX needs onnx and onnxscript and onnxruntime: pip install 'dreamstill\[onnx\]'"
    with pytest.raises(InputError, match=needs):
        export_onnx(tiny_network((4, 6), 0), tmp_path / "a.onnx")


@pytest.mark.slow
def test_a_broken_onnxruntime_does_not_end_a_finished_run(tmp_path, monkeypatch):
    """It is found, so nothing can be said before the run; its import fails after it."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libfoo.so.1 is missing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in [m for m in sys.modules if m.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(InputError, match="libfoo"):
        export_onnx(tiny_network((4, 6), 0), tmp_path / "a.onnx")


def test_without_tensorboard_the_metrics_are_kept_all_the_same(without, tmp_path):
    without("tracking")
    tracker = Tracker(tmp_path, 10, "run", quiet=True)
    tracker.log(5, {"loss": 0.75})
    tracker.close()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_charts_without_matplotlib_keep_their_names_and_last_values(without):
    rows = {s: {"student/kl": 1.0 / s, "eval/accuracy": s / 10} for s in (1, 2, 3)}
    summary = {"student": {}, "class_histogram": [3] * 30}
    drawn = charts.loss_terms(rows) + charts.learning_curves(rows, summary) + [charts.histogram(summary)]
    assert all(str(chart["svg"]).startswith("<svg") for chart in drawn)
    assert plots.undrawn() == ""
    without("plots")
    undrawn = charts.loss_terms(rows) + charts.learning_curves(rows, summary) + [charts.histogram(summary)]
    assert [{**a, "svg": ""} for a in drawn] == undrawn
    assert plots.undrawn() == plots.UNDRAWN


@pytest.mark.slow
def test_a_profile_without_matplotlib(without, tmp_path, capsys, monkeypatch):
    from dreamstill.commands.profiling import command
    from dreamstill.networks.load import save_network

    peaks = ("conv_float32", "conv_bfloat16", "matmul_float32", "matmul_bfloat16", "copy_bytes")
    monkeypatch.setattr(command, "machine_peaks", lambda device: dict.fromkeys(peaks, 1e10))  # measuring takes minutes

    save_network(tmp_path / "teacher.safetensors", tiny_network((4, 6), 0))
    (tmp_path / "recipe.yaml").write_text(
        f"teacher_checkpoint: {tmp_path}/teacher.safetensors\nstudent: convnet\nstudent_args: {{widths: [2, 3]}}\n"
        "method: {name: noise, batch_size: 8}\nsteps: 20\n"
    )
    without("plots")
    words = ["profile", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--device", "cpu", "--json"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "the charts in profile.html (pip install 'dreamstill[plots]')" in said.err
    assert json.loads(said.out)["parts"]
    page = (tmp_path / "out" / "profile.html").read_text()
    assert page.count("dreamstill[plots]") == 1
    assert "<figure" not in page
