"""Every command and code block of the documentation, run as it stands with short budgets.

A page is a session: its blocks run in order in one folder that holds what the page takes for granted (``teacher.pt``,
``networks.py``, ``runs/mine``, ``recipes/``, ...), with small stand-ins for the named data sets under ``DATA``. What
needs a network, several processes or minutes is not run but checked: that its command parses, with known settings, and
that the files it names are there. A block of another kind is a failure, so that none is left out unseen.
"""

import argparse
import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import statistics
import sys
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from dreamstill import api, cli, methods
from dreamstill.commands.bench.suite import read_suite
from dreamstill.commands.bench.tables import page
from dreamstill.networks import builtin
from dreamstill.runs.settings import DistillSettings, build_method, method_spec

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
BLOCK = re.compile(r"^(```+)(.*)\n((?:.*\n)*?)^\1$", re.M)

# Of a run that is only tried: so small that it takes a second or two. What a method does not have is left out.
SMALL = {
    "batch_size": 64, "nz": 8, "width": 4, "bank": 128, "gan_batch": 64, "gan_iterations": 2, "n_images": 64,
    "keep": 128, "synthesis_batch": 64, "iterations": 2, "student_steps": 1, "generator_steps": 1, "inner_steps": 1,
    "images": 16,
}  # fmt: skip


@dataclass
class Block:
    """A fenced block: its language, the words after it, and its lines."""

    language: str
    marks: list[str]
    text: str


def blocks(path):
    """The page's blocks; what Sphinx takes for itself, as ``{toctree}``, is its business."""
    found = []
    for _, info, text in BLOCK.findall(path.read_text()):
        language, *marks = info.split() or [""]
        if not language.startswith("{"):
            found.append(Block(language, marks, text))
    return found


def commands(text):
    """The command lines of a shell block, continued ones in one piece."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


# ---------------------------------------------------------------- what the pages take for granted


def parquet(path, images, **columns):
    """A file in the Hugging Face image layout."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": "a.png"})
    names = json.dumps({"info": {"features": {"label": {"names": [str(i) for i in range(10)]}}}})
    table = pa.table({"image": encoded, **columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({b"huggingface": names.encode()}), path)


def stand_ins(root):
    """Small sets under the names of the real ones, made of scikit-learn's digits: right in size, kind and classes."""
    digits = load_digits()
    grey = [np.kron((image * 15).astype(np.uint8), np.ones((4, 4), np.uint8))[2:30, 2:30] for image in digits.images]
    colour = [np.pad(np.stack([image] * 3, -1), ((2, 2), (2, 2), (0, 0))) for image in grey]
    for name, images in (("mnist", grey), ("fashion-mnist", grey), ("cifar10", colour), ("collected32", colour)):
        for split, part in (("train", slice(0, 160)), ("test", slice(160, 192))):
            labels = [] if name == "collected32" else [int(y) for y in digits.target[part]]
            columns = {"label": pa.array(labels, pa.int64())} if labels else {}
            parquet(root / name / f"{split}-00000-of-00001.parquet", images[part], **columns)
    scenes = [np.kron(image, np.ones((6, 8, 1), np.uint8))[:180, :240] for image in colour[:16]]
    maps = [(scene[..., 0] // 25).astype(np.uint8) for scene in scenes]  # classes 0 to 9 of 11
    for split, part in (("train", slice(0, 8)), ("val", slice(8, 12)), ("test", slice(12, 16))):
        annotations = []
        for image in maps[part]:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            annotations.append({"bytes": buffer.getvalue(), "path": "a.png"})
        parquet(root / "camvid" / f"{split}-00000-of-00001.parquet", scenes[part], annotation=annotations)
        file = root / "camvid" / f"{split}-00000-of-00001.parquet"
        names = json.dumps([f"class {i}" for i in range(11)] + ["Void"])
        pq.write_table(pq.read_table(file).replace_schema_metadata({b"class_names": names.encode()}), file)


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    """A folder with all that a page takes for granted; each page has a copy."""
    folder = tmp_path_factory.mktemp("house")
    stand_ins(folder / "DATA")
    for name in ("recipes", "benchmarks", "docs"):
        (folder / name).symlink_to(ROOT / name)
    torch.manual_seed(0)
    torch.save(
        builtin.build("lenet5_bn", num_classes=10, channels=1, image_size=32).state_dict(), folder / "teacher.pt"
    )
    (folder / "photographs").mkdir()
    for i, image in enumerate(load_digits().images[:160]):
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / "photographs" / f"{i}.png")
    quietly = {"precision": "32", "compile": "off", "quiet": True}
    with contextlib.chdir(folder):
        api.train("convnet", data="digits", epochs=1, batch_size=64, limit=256, out="runs/teacher", **quietly)
        api.distill(
            teacher_checkpoint="runs/teacher", student="convnet", student_args={"widths": [4, 4, 8]}, steps=2,
            method={"name": "ddad", "batch_size": 8, "nz": 8, "width": 4}, out="runs/mine", onnx=False, **quietly,
        )  # fmt: skip
        shutil.copytree("runs/mine", "runs/interrupted")  # as it was before its results were written
        for name in ("report.html", "summary.json", "student.safetensors"):
            (Path("runs/interrupted") / name).unlink()
    return folder


# ---------------------------------------------------------------- running


def shortened(words):
    """The words of a command with its budget cut; what it asks for stays."""
    command, *rest = words
    options = {word: rest[i + 1] for i, word in enumerate(rest[:-1]) if word.startswith("--")}
    if command == "train":
        rest = without(rest, "--epochs", "--batch-size")
        return [command, *rest, "--epochs", "1", "--batch-size", "8", "--limit", "16", *FAST]
    if command == "synthesize" and "--shard-size" in options:
        return [command, *without(rest, "--n", "--shard-size"), "--n", "20", "--shard-size", "10"]
    if command == "export" and "int8" in options.get("--format", ""):
        return [command, *rest, "--images", "8"]
    if command != "distill" or "--resume" in rest or "--help" in rest:
        return [command, *([*without(rest, "--steps"), "--steps", "3"] if command == "demo" else rest)]
    recipe = yaml.safe_load(Path(options["--config"]).read_text()) if "--config" in options else {}
    spec = recipe.get("method", {})
    name = options.get("--method") or (spec if isinstance(spec, str) else spec.get("name", "auto"))
    known = {field.name for field in fields(methods.get("fast" if name == "auto" else name))}
    rest = without(rest, "--steps", "--minutes", *(f"--method.{key}" for key in SMALL))
    small = [word for key, value in SMALL.items() if key in known for word in (f"--method.{key}", str(value))]
    return [command, *rest, *small, "--steps", "2", "--evaluations", "1", "--no-onnx", *FAST]


FAST = ["--precision", "32", "--compile", "off", "--quiet"]


def without(words, *names):
    """The words without some options and their values."""
    dropped = {i for i, word in enumerate(words) if word in names}
    return [word for i, word in enumerate(words) if i not in dropped and i - 1 not in dropped]


def checked(words):
    """A dreamstill command that is not run: it must parse, with settings that its method has and files that exist."""
    parsed = cli.build_parser(words[0]).parse_args(cli.normalise(words))[words[0]].as_dict()
    if words[0] == "distill":
        if method_spec(parsed["method"])["name"] != "auto":
            build_method(parsed["method"])
    if words[0] == "bench":
        plans = read_suite(ROOT / "benchmarks" / f"{parsed['suite']}.yaml")
        assert set(parsed["tables"] or []) <= {plan.key for plan in plans}
    if words[0] == "profile":
        assert (ROOT / parsed["recipe"]).exists()


def run_command(line, marks):
    """Run a line, or check what cannot be run here. Returns whether it ran."""
    if re.match(r"#|export \w+=|\w+=\$\(", line):
        assert "needs=torchrun" in marks  # of a job's script, which prepares the line that is checked
        return False
    words = shlex.split(line)
    words = words[1:] if words[0] == "srun" else words
    if words[0] == "dreamstill" and words[1] not in ("bench", "profile") and "needs=network" not in marks:
        assert set(marks) <= {"needs=data"}, f"{line} runs here: its mark {marks} is wrong"
        assert ("DATA" in words) == ("needs=data" in marks), f"{line}: needs=data marks what reads a named set"
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(shortened(words[1:]))
        assert code == 0, f"{line}: {said.getvalue()}"
        return True
    if words[0] == "dreamstill":
        checked(words[1:])
    elif words[0] == "torchrun":
        assert "needs=torchrun" in marks
        program = words.index("dreamstill")
        assert words[program - 1] == "-m"
        checked(words[program + 1 :])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), f"no target {words[1]}"
    elif words[:2] == ["pip", "install"]:
        assert "needs=network" in marks
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert {e for word in words[2:] for e in re.findall(r"\[(.*)\]", word)} <= extras.keys()
    elif words[0] == "python":
        assert options_of(ROOT / words[1]) >= {word for word in words if word.startswith("--")}
    else:
        pytest.fail(f"{line!r} is no command that this test knows how to run or to check")
    return False


def options_of(script):
    """The options of a script in benchmarks/, from its own parser; it does not get further than that."""
    text = script.read_text()
    if "ArgumentParser" not in text:
        return set()
    found = set()

    def stop(self, *_args, **_kwargs):
        found.update(self._option_string_actions)
        raise SystemExit

    whole, argv = argparse.ArgumentParser.parse_args, sys.argv
    argparse.ArgumentParser.parse_args = stop
    sys.argv = [str(script)]
    try:
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        argparse.ArgumentParser.parse_args, sys.argv = whole, argv
    return found


def run_block(block, names):
    """Run a block, or keep it as the file that its first line names. Returns what ran and what was only checked."""
    file = re.match(r"# ([\w.]+\.(?:py|yaml))\n", block.text)
    if file:
        Path(file[1]).write_text(block.text)
    if block.language == "bash":
        done = [run_command(line, block.marks) for line in commands(block.text)]
        return sum(done), len(done) - sum(done)
    assert not block.marks
    if block.language == "python":
        if not file:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(re.sub(r"\b(?:minutes|steps)=\d+", "steps=2", block.text), names)
        else:
            compile(block.text, file[1], "exec")
        return 1, 0
    if block.language == "yaml":
        content = yaml.safe_load(block.text)
        if content.get("kind") == "PyTorchJob":
            (container,) = content["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
            assert container["command"][:3] == ["torchrun", "-m", "dreamstill"]
            checked(container["command"][3:])
            return 0, 1
        if "method" in content:  # a recipe
            assert set(content) <= {field.name for field in fields(DistillSettings)}
            return 0, 1
        assert set(content) <= {"title", "about", "note", "show", "seeds", "shared", "rows"}
        assert content["rows"]
        return 0, 1
    assert block.language == "text", f"a block of {block.language or 'no language'}: bash, python, yaml or text"
    return 0, 0


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT).with_suffix("")))
def test_every_block_runs(path, house, tmp_path, monkeypatch):
    todo = [b for b in blocks(path) if not (path.name == "README.md" and b.language == "python")]  # test_readme's
    if not any(b.language != "text" for b in todo):
        assert path.name in TEXT_ALONE, f"{path.name} has nothing to run: a page that explains a command shows it"
        return
    folder = tmp_path / "page"
    shutil.copytree(house, folder, symlinks=True)
    for made in re.findall(r"(?<!--resume )--out (runs/\w+)", path.read_text()):  # the page makes it itself
        shutil.rmtree(folder / made, ignore_errors=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    here = set(sys.modules)
    names = {"__name__": "page"}
    done = [run_block(block, names) for block in todo]
    for name in set(sys.modules) - here:  # networks.py of the next page is another
        if getattr(sys.modules[name], "__file__", None) and str(folder) in sys.modules[name].__file__:
            del sys.modules[name]
    assert sum(a + b for a, b in done) > 0


# Pages that show no command: they explain, list, or are made by a command.
TEXT_ALONE = {"architecture.md", "claims.md", "controls.md", "glossary.md", "reference.md", "results.md"} | {
    path.name for path in (ROOT / "docs" / "results").glob("*.md")
}


# ---------------------------------------------------------------- what the pages say


def spread(values):
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def known_spreads():
    """Every mean with its deviation that the records support, and those that a suite says are published."""
    found = set()
    for path in (ROOT / "benchmarks").glob("*.yaml"):
        plans = read_suite(path)
        published = " ".join(row.published for plan in plans for row in plan.rows)
        found.update(re.findall(r"\d+\.\d ± \d+\.\d", page(plans) + published))
    demos = [json.loads(p.read_text())["summary"] for p in (ROOT / "benchmarks/records/demo").glob("seed*.json")]
    found |= {spread([100 * demo[side]["accuracy"] for demo in demos]) for side in ("teacher", "student")}
    whole = json.loads((ROOT / "benchmarks/records/whole_run/wrn_16_2.json").read_text())["ours"].values()
    found.add(spread([100 * run["accuracy"] for run in whole]))
    seconds = [run["seconds"] for run in whole]
    return found | {f"{statistics.mean(seconds):.0f} ± {statistics.stdev(seconds):.0f}"}


def test_every_mean_with_a_deviation_is_one_of_the_records():
    known = known_spreads()
    texts = [ROOT / "RESULTS.md", ROOT / "CONTRIBUTING.md", *PAGES]
    said = {(p.name, figure) for p in texts for figure in re.findall(r"\d+(?:\.\d)? ± \d+(?:\.\d)?", p.read_text())}
    assert len(said) > 50
    assert not sorted((name, figure) for name, figure in said if figure not in known)


def test_the_readme_shows_the_demo_and_a_teacher_of_ones_own_before_anything_else():
    lines = (ROOT / "README.md").read_text().splitlines()
    first = "\n".join(lines[:60])
    assert first.count("![") == 1
    told = [b.text.split()[:2] for b in blocks(ROOT / "README.md") if b.language == "bash"]
    assert told == [["make", "demo"], ["dreamstill", "doctor"], ["dreamstill", "distill"], ["dreamstill", "evaluate"]]
    assert all(" ".join(words) in first for words in told)
    assert "| data set |" not in "\n".join(lines[:50])


def test_the_glossary_is_in_order():
    terms = re.findall(r"^## (.*)", (ROOT / "docs/glossary.md").read_text(), re.M)
    assert terms == sorted(terms, key=str.lower)
    assert len(terms) == len(set(terms)) > 40


def test_every_method_has_a_page_and_every_page_stands_in_the_contents():
    own = {name for name, package in methods.names().items() if not package.endswith("controls")}
    assert {p.stem for p in (ROOT / "docs/methods").glob("*.md")} == own | {"controls"}
    contents = set()
    for path in (ROOT / "docs/index.md", ROOT / "docs/results.md"):
        for _, info, text in BLOCK.findall(path.read_text()):
            if info.startswith("{toctree}"):
                lines = [line for line in text.splitlines() if line and not line.startswith(":")]
                contents |= {re.sub(r".*<(.*)>", r"\1", line) for line in lines}
    docs = {str(p.relative_to(ROOT / "docs").with_suffix("")) for p in PAGES[1:]}
    assert contents == docs - {"index"}
