"""The page that compares runs."""

import re
import shutil

import pytest
import yaml
from helpers.runs import distil

import dreamstill
from dreamstill.cli import main
from dreamstill.errors import InputError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    distil(base / "short", steps=6)
    distil(base / "noise", steps=8, method={"name": "noise", "batch_size": 8}, seed=3)
    for name, at in (("short", 3), ("noise", 8)):  # as if they had been scored
        (base / name / "metrics.csv").write_text(f"step,eval/accuracy,student/kl\n1,0.5,2.0\n{at},0.6,0.01\n")
    shutil.copytree(base / "short", base / "deeper" / "short")
    return base


@pytest.mark.slow
@pytest.mark.whole_end
def test_figures_differences_curves_and_images_of_two_runs(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["compare", str(runs / "short"), str(runs / "noise"), "--out", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    assert text.count('<img class="sheet"') == 2
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # one file, which asks nothing of the network
    settings = text.split('id="settings"')[1].split("</section>")[0].replace("<wbr>", "")
    assert [row for row in ("seed", "steps", "method.name", "precision") if f">{row}<" in settings] == [
        "seed", "steps", "method.name"
    ]  # fmt: skip
    assert ">method.replay<" not in settings  # one of the methods does not have it
    assert "<title>accuracy of short, noise over the steps</title>" in text
    assert "<title>kl of short, noise over the steps</title>" in text
    assert "var(--series-2)" in text
    assert "#0500" not in text
    assert ">ddad<" in text
    assert ">noise<" in text


def test_runs_of_one_name_are_told_apart_by_their_folders_and_need_not_differ(runs, tmp_path):
    out = dreamstill.compare([str(runs / "short"), str(runs / "deeper" / "short")], out=str(tmp_path / "page.html"))
    text = open(out).read()
    assert "deeper/short" in text
    assert "the runs have the same settings" in text


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["short"], "1 run given: compare 2 to 12"),
        (["short", "short"], "was given twice"),
        (["short", "nowhere"], "holds no summary.json"),
    ],
)
def test_what_cannot_be_compared(names, said, runs, tmp_path):
    with pytest.raises(InputError, match=said):
        dreamstill.compare([str(runs / name) for name in names], out=str(tmp_path / "page.html"))
    with pytest.raises(InputError, match="give a list of run folders"):
        dreamstill.compare("runs/a")
    assert not (tmp_path / "page.html").exists()


def test_names_in_files_are_text_on_the_page(runs, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(runs / "short", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "split": "<script>alert(1)</script>"}))
    text = open(dreamstill.compare([str(folder), str(runs / "short")], out=str(tmp_path / "page.html"))).read()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
