"""The page of claims: its figures are the records', its verdicts are among five, and what is measured is on it."""

import re
from functools import cache
from pathlib import Path

import pytest

from dreamstill.commands.bench.suite import read_suite
from dreamstill.commands.bench.tables import anchor, measured, score

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/claims.md").read_text()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")]
CLAIMS = [row for row in ROWS if row[0] not in ("claim", "---")]
VERDICTS = {"shown", "partly", "not shown", "refuted here", "cannot be tested here"}
# [LABEL](results/SUITE.md#TABLE) WHAT FIGURE; without WHAT the accuracy or mean IoU.
FIGURE = re.compile(
    r"\[([^\]]+)\]\(results/([\w-]+)\.md#([\w-]+)\)(?: (label fidelity|of the teacher's|largest class|spread))?"
    r" (\d+\.\d+(?: ± \d+\.\d+)?)"
)


@cache
def tables(suite):
    return {anchor(plan.title): plan for plan in read_suite(ROOT / "benchmarks" / f"{suite}.yaml")}


def figure(label, suite, place, what):
    (row,) = [row for row in measured(tables(suite)[place]) if row.name == label]
    of = {
        "": lambda s: score(s["student"]),
        "of the teacher's": lambda s: score(s["student"]) / score(s["teacher"]),
        "largest class": lambda s: max(s["class_histogram"]) / sum(s["class_histogram"]),
        "spread": lambda s: s["spread"]["made"],
    }
    return row.fidelity if what == "label fidelity" else row.spread(of[what])


FIGURES = sorted(set(FIGURE.findall(PAGE)))


@pytest.mark.parametrize(("label", "suite", "place", "what", "said"), FIGURES, ids=lambda x: x[:24])
def test_a_figure_is_that_of_the_row_it_links(label, suite, place, what, said):
    assert figure(label, suite, place, what) == said


def test_no_figure_of_this_repository_stands_without_its_row():
    assert len(FIGURES) > 30
    for claim, _, here, *_ in CLAIMS:
        left = re.sub(r"teacher \d+\.\d", "", FIGURE.sub("", here))
        assert not re.findall(r"\d+\.\d", left), claim


def test_the_teachers_are_those_of_the_tables():
    for said, suite, place in re.findall(r"teacher (\d+\.\d): \[[^\]]+\]\(results/([\w-]+)\.md#([\w-]+)\)", PAGE):
        row = measured(tables(suite)[place])[0]
        assert f"{100 * score(row.summaries[0]['teacher']):.1f}" == said


def test_every_claim_has_one_of_five_verdicts_and_names_what_makes_its_row():
    assert len(CLAIMS) > 30
    assert {len(row) for row in ROWS} == {5}
    for claim, _, here, made_by, verdict in CLAIMS:
        word = verdict.removeprefix("**").partition("**")[0]
        assert word in VERDICTS, claim
        if word in ("shown", "partly", "refuted here"):
            assert FIGURE.search(here), claim
        if word == "cannot be tested here":
            assert verdict.partition(":")[2].strip(), f"{claim}: why not?"
        else:
            assert made_by, claim
        suite = ""
        for name in re.findall(r"`([^`]+)`", made_by):
            if name.startswith("["):
                known = {plan.key for plan in tables(suite).values()}
                assert set(name.strip("[]").split(", ")) <= known, (claim, name)
            else:
                suite = name
                assert tables(suite), claim


def test_a_table_made_for_a_claim_is_on_the_page_once_it_is_measured():
    for place, plan in tables("claims").items():
        assert not measured(plan) or f"results/claims.md#{place})" in PAGE, plan.key


def test_both_front_pages_link_it():
    assert "docs/claims.md" in (ROOT / "README.md").read_text()
    assert "claims.md" in (ROOT / "docs/index.md").read_text()
