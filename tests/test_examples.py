"""Each example runs as it stands, with a short budget."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# What it needs beyond what every installation for development has, and what it leaves and says.
EXPECTED = {
    "timm_teacher": ("timm", ["student.onnx", "README.md"], "its card"),
    "onnx_to_int8": ("onnx2torch", ["student.int8.onnx", "student.int8.onnx.json"], "of 500 digits read in 8 bits"),
    "collected_photographs": ("sklearn", ["student.onnx", "collected.json"], "agreement with the teacher"),
}


def test_none_is_left_out():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)
    text = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.py`" in text for name in EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_it_runs(name, tmp_path, monkeypatch, capsys):
    needs, files, words = EXPECTED[name]
    pytest.importorskip(needs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--out", "runs/made", "--steps", "10"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert all((tmp_path / "runs/made" / file).is_file() for file in files)
    assert words in capsys.readouterr().out
