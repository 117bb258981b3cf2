"""What is said around the code, as far as a machine can tell whether it is true."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from dreamstill import cli, methods

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_paper_of_every_method_is_cited():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    cited = {reference["notes"].removeprefix("the method "): reference for reference in references}
    published = {name for name, package in methods.names().items() if package == "dreamstill.methods"}
    assert set(cited) == published
    for name, reference in cited.items():
        paper = methods.get(name).paper
        assert reference["authors"][0]["family-names"] in paper
        for number in re.findall(r"arXiv:([\d.]+\d)", paper)[:1]:
            assert number in reference["url"]


def test_the_pythons_that_are_promised_are_those_that_are_tested():
    promised = [c.split(" :: ")[-1] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"
    (lowest,) = [s["with"]["python-version"] for s in jobs["lowest"]["steps"] if "python-version" in s.get("with", {})]
    assert lowest == promised[0]
    for job in jobs.values():
        for command in (shlex.split(step["run"])[0] for step in job["steps"] if "run" in step):
            assert command == "make" or (ROOT / command).stat().st_mode & 0o100


def test_hooks_run_tools_that_are_installed_with_the_tests():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    dev = " ".join(PROJECT["optional-dependencies"]["dev"])
    for hook in repo["hooks"]:
        assert hook["entry"].split()[0].removeprefix(".venv/bin/") + ">=" in dev


@pytest.mark.parametrize("words", [["distill", "--config"], ["profile"], ["bench"]], ids=lambda w: w[0])
def test_a_yaml_file_makes_no_objects(words, tmp_path, capsys):
    """SECURITY.md says so."""
    file, touched = tmp_path / "a.yaml", tmp_path / "touched"
    touch = "!!python/object/apply:pathlib.Path.touch"
    file.write_text(f"teacher: {touch} [!!python/object/apply:pathlib.Path [{touched}]]")
    assert cli.main([*words, str(file)]) == 2
    assert "could not determine a constructor" in capsys.readouterr().err
    assert not touched.exists()
