"""What the readme shows, run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
NETWORKS = """
from dreamstill.networks import builtin

def Teacher():
    return builtin.build("convnet", num_classes=10, channels=3, image_size=32, widths=(4, 8, 8))

def Student():
    return builtin.build("convnet", num_classes=10, channels=3, image_size=32, widths=(2, 4, 4))
"""


@pytest.mark.slow
def test_the_script_of_ten_lines(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(code.strip().splitlines()) <= 12
    (tmp_path / "networks.py").write_text(NETWORKS)
    torch.manual_seed(0)
    sys.path.insert(0, str(tmp_path))
    try:
        import networks
    finally:
        sys.path.remove(str(tmp_path))
    torch.save(networks.Teacher().state_dict(), tmp_path / "teacher.pt")
    # Only the budget is cut: ten minutes are too long for a test.
    assert "minutes=10" in code
    (tmp_path / "script.py").write_text(code.replace("minutes=10", "steps=5"))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tensor([" in done.stdout
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert "linear.weight" in torch.load(tmp_path / "student.pt", weights_only=True)


def test_what_it_says_of_soft_targets_is_of_the_records():
    from dreamstill.commands.bench.suite import read_suite
    from dreamstill.commands.bench.tables import measured, score

    (plan,) = [plan for plan in read_suite(ROOT / "benchmarks/cpu.yaml") if plan.key == "mnist"]
    found = {row.name: row.spread(lambda s: score(s["student"])) for row in measured(plan)}
    said = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    assert f"describes them reach {found['soft targets']} % on MNIST" in said
    assert f"The {found['soft targets, warped further']} % are of images with a prior" in said


def test_every_command_it_names_is_there():
    from dreamstill import cli

    named = set(re.findall(r"^dreamstill ([a-z]+)|`dreamstill ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
    assert {a or b for a, b in named} <= cli.COMMANDS.keys()


def test_what_it_links_is_there():
    pages = [p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts]
    for page in (ROOT / "README.md", ROOT / "RESULTS.md", ROOT / "CONTRIBUTING.md", *pages):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_are_settings_of_distill(recipe):
    import inspect

    import yaml

    from dreamstill import api
    from dreamstill.runs.settings import build_method

    text = recipe.read_text()
    assert "published:" in text
    assert "measured:" in text
    settings = yaml.safe_load(text)
    assert set(settings) <= set(inspect.signature(api.distill).parameters)
    build_method(settings["method"])
    checkpoint = settings["teacher_checkpoint"]
    assert checkpoint.startswith("runs/") or (ROOT / checkpoint).exists()  # the former says how it is made


def test_suites_name_recipes_that_are_there():
    from dreamstill.commands.bench.suite import read_suite

    for path in (ROOT / "benchmarks").glob("*.yaml"):
        for plan in read_suite(path):
            assert all((plan.root / row.recipe).exists() for row in plan.rows)
