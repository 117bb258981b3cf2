"""The model card of a run: what it says, that its code runs, and that no name can break it."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from helpers.networks import tiny_network
from helpers.runs import FIXED
from markdown_it import MarkdownIt
from PIL import Image
from safetensors import safe_open

import dreamstill
from dreamstill.networks.load import save_network
from dreamstill.networks.network import Network
from dreamstill.report.card import escaped, snippet, write_card

HOSTILE = [
    "</td></table><script>alert(1)</script>",
    "a\n---\n# Owned\n| b | c |",
    "[click](https://evil.example) www.evil.example ![x](y)",
    "`rm -rf`\n```python\nimport os\n```",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose classes are called what nobody would call them."""
    folder = tmp_path_factory.mktemp("card")
    teacher = tiny_network((4, 6), 0)
    teacher.classes = tuple(HOSTILE)
    save_network(folder / "teacher.safetensors", teacher)
    dreamstill.distill(
        teacher_checkpoint=str(folder / "teacher.safetensors"), student="convnet", student_args={"widths": [2, 3]},
        method={"name": "noise", "batch_size": 8}, steps=2, out=str(folder / "run"), **FIXED,
    )  # fmt: skip
    return folder / "run"


def parsed(text):
    """Metadata, and the tokens of the text, nested ones too."""
    _, front, body = text.split("---\n", 2)
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(body)
    return yaml.safe_load(front), [t for token in tokens for t in (token, *(token.children or []))]


@pytest.mark.slow
def test_the_card_says_what_summary_and_manifest_say(run):
    text = (run / "README.md").read_text()
    metadata, tokens = parsed(text)
    assert metadata == {
        "library_name": "onnx", "pipeline_tag": "image-classification",
        "tags": ["dreamstill", "knowledge-distillation", "noise"],
    }  # fmt: skip
    assert "# license:" in text.split("---")[1]
    summary, manifest = (json.loads((run / name).read_text()) for name in ("summary.json", "manifest.json"))
    assert manifest["teacher_sha256"] in text
    assert f"| parameters | {summary['teacher']['params']:,} | {summary['student']['params']:,} | |" in text
    assert summary["verdict"]["word"].capitalize() in text
    assert all(reason.split("(")[0][:40] in text for reason in summary["verdict"]["reasons"])
    assert "Used besides the teacher: nothing" in text
    assert [t.content for t in tokens if t.type == "inline" and t.level == 1][:1] == ["convnet"]


def test_hostile_names_stay_words(run):
    _, tokens = parsed((run / "README.md").read_text())
    assert not [t for t in tokens if t.type in ("html_block", "html_inline", "link_open", "image", "hr")]
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert headings == ["convnet", "Figures", "Use", "Where it comes from", "License"]
    assert len([t for t in tokens if t.type == "fence"]) == 2
    assert len([t for t in tokens if t.type == "table_open"]) == 1
    words = "".join(t.content for t in tokens if t.type == "text")
    assert "</td></table><script>alert(1)</script>" in words  # as words it may stand there


@pytest.mark.parametrize("name", [*HOSTILE, "", "‮txt.exe", "x" * 500, "@team $a$ *b* _c_ ~~d~~ &lt; \\"])
def test_one_line_of_plain_words(name):
    inline = MarkdownIt("gfm-like", {"linkify": False}).parseInline(escaped(name))[0].children
    assert {t.type for t in inline} <= {"text", "text_special"}
    assert "\n" not in escaped(name)
    assert len(escaped(name)) < 210


def photo(path, size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path / "photo.jpg")


def run_code(text, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(compile(text, "README.md", "exec"), {})
    return capsys.readouterr().out


@pytest.mark.slow
def test_its_code_classifies_a_photograph(run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "moved"
    shutil.copytree(run, folder)
    photo(folder)
    _, tokens = parsed((folder / "README.md").read_text())
    onnx, torch_code = [t.content for t in tokens if t.type == "fence"]
    said = run_code(onnx, folder, monkeypatch, capsys)
    image = Image.open(folder / "photo.jpg").convert("L").crop((5, 0, 35, 30)).resize((8, 8), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None, None]
    with torch.no_grad():
        best = int(dreamstill.load_student(str(folder))(pixels).argmax())
    assert said == HOSTILE[best] + "\n"
    run_code(torch_code, folder, monkeypatch, capsys)


@pytest.mark.slow
def test_the_code_for_maps_of_classes(tmp_path, monkeypatch, capsys):
    from helpers.networks import dense_network

    from dreamstill.networks.export_onnx import export_onnx

    export_onnx(dense_network(3, 0), tmp_path / "student.onnx")
    photo(tmp_path)
    said = run_code(snippet("segmentation"), tmp_path, monkeypatch, capsys)
    assert set(eval(said)) <= {"0", "1", "2", "3"}


def test_measured_figures_are_in_the_metadata(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    for side, value in (("teacher", 0.97), ("student", 0.9125)):
        summary[side]["accuracy"] = value
    summary |= {"data": "evil|set: {a}, test, 500 images", "agreement": 0.93}
    summary["outside_information"] = ["70 collected images of <b>mine</b>"]
    summary.pop("onnx")
    (folder / "summary.json").write_text(json.dumps(summary))
    text = write_card(folder).read_text()
    metadata, tokens = parsed(text)
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9125}]
    assert result["dataset"] == {"name": summary["data"], "type": "evil|set: {a}"}
    assert "91.2 %" in text or "91.3 %" in text
    assert not [t for t in tokens if t.type == "html_inline"]
    assert "dreamstill export" in text


def test_names_travel_in_the_weights_too(run):
    with safe_open(run / "student.safetensors", "pt") as file:
        about = json.loads(file.metadata()["dreamstill"])
    assert about["classes"] == HOSTILE
    assert isinstance(dreamstill.load_student(str(run)), Network)
