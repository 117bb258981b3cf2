"""The verdict of constructed summaries: each reason alone, and which word it leaves."""

import copy
from pathlib import Path

import pytest

from dreamstill.runs.verdict import judge

pytestmark = pytest.mark.whole_end

SOURCE = {"name": "mixed", "largest_share": 0.2, "confidence": 0.8, "weight": 0.5}
CERTIFICATE = {
    "agreement": 0.8, "ece": 0.1, "worst_class": {"class": 3, "agreement": 0.6},
    "coverage": {"seen": 4, "missing": [], "largest": {"class": 1, "share": 0.3, "teacher": 0.28}},
    "sources": [SOURCE, SOURCE], "variation": 0.9,
    "teacher": {"output": "logits", "normalisation": {"verdict": "plausible", "why": ""}},
}  # fmt: skip
GOOD = {
    "steps": 2000, "seconds": {"training": 100.0}, "class_histogram": [10, 10, 10, 10], "teacher": {}, "student": {},
    "certificate": CERTIFICATE,
}  # fmt: skip
OUT = Path("runs/my run")
UNMEASURED = "its accuracy was not measured: no labelled images were given"


def changed(summary, path, value):
    found = copy.deepcopy(summary)
    *above, last = path.split(".")
    at = found
    for key in above:
        at = at[key]
    at[last] = value
    return found


def scored(mine, theirs=0.9, key="accuracy", **changes):
    return {**GOOD, "student": {key: mine}, "teacher": {key: theirs}, "confusion": [[0] * 4] * 4, **changes}


def test_without_labels_and_without_a_doubt_it_is_usable_and_says_that_nothing_was_measured():
    found = judge(GOOD, {}, OUT)
    assert found["word"] == "usable"
    assert found["reasons"] == [UNMEASURED]
    assert found["next"] == "dreamstill evaluate 'runs/my run' --data LABELLED_IMAGES"


@pytest.mark.parametrize(
    ("path", "value", "word", "says"),
    [
        ("certificate.agreement", 0.45, "doubtful", "agrees with its teacher on 45%"),
        ("certificate.agreement", 0.15, "not a copy of its teacher", "agrees with its teacher on 15%"),
        ("certificate.coverage.largest", {"class": 2, "share": 0.9, "teacher": 0.3}, "not a copy of its teacher",
         "answers class 2 to 90%"),
        ("certificate.coverage.missing", [3], "doubtful", "never answers class 3"),
        ("certificate.coverage.missing", [1, 3], "not a copy of its teacher", "never answers classes 1, 3"),
        ("certificate.coverage.seen", 1, "doubtful", "sees 1 of its 4 classes"),
        ("certificate.variation", 0.001, "not a copy of its teacher", "all but the same image"),
        ("certificate.teacher.output", "log_probabilities", "not a copy of its teacher", "log-probabilities"),
        ("certificate.teacher.normalisation", {"verdict": "implausible", "why": "too dark"}, "doubtful", "too dark"),
        ("certificate.sources", [{**SOURCE, "largest_share": 0.99}] * 2, "doubtful", "the same class"),
        ("certificate.sources", [{**SOURCE, "confidence": 0.3}] * 2, "doubtful", "only guesses"),
        ("class_histogram", [40, 0, 0, 10], "doubtful", "nothing of classes 1, 2"),
        ("class_histogram", [40, 1, 1, 10], "doubtful", "77% of the images"),
        ("steps", 10, "doubtful", "10 student steps are too few: 2,000 are the least to try, about 5 h 33 min"),
    ],
)  # fmt: skip
def test_each_reason(path, value, word, says):
    found = judge(changed(GOOD, path, value), {}, OUT)
    assert found["word"] == word
    assert says in found["reasons"][0]
    assert found["reasons"][-1] == UNMEASURED
    assert found["next"].startswith("dreamstill ")


def test_the_gravest_reason_comes_first():
    bad = changed(changed(GOOD, "steps", 10), "certificate.agreement", 0.1)
    found = judge(bad, {}, OUT)
    assert found["word"] == "not a copy of its teacher"
    assert "10%" in found["reasons"][0]
    assert "too few" in found["reasons"][1]
    again = "dreamstill distill --config 'runs/my run/config.yaml' --steps"
    assert found["next"] == f"{again} 2000 --out 'runs/my run-longer'"


def test_what_was_measured_decides():
    bad = copy.deepcopy(CERTIFICATE)
    bad["agreement"] = 0.1
    fine = judge(scored(0.85, certificate=bad), {}, OUT)
    assert fine["word"] == "usable"
    assert fine["reasons"] == ["its measured accuracy is 85.0% and its teacher's 90.0%"]
    assert "load_student" in fine["next"]
    assert judge(scored(0.7), {}, OUT)["word"] == "doubtful"
    lost = judge(scored(0.4, steps=10), {}, OUT)
    assert lost["word"] == "not a copy of its teacher"
    assert "keeps 23% of it" in lost["reasons"][0]
    assert "too few" in lost["reasons"][1]  # the cause stands beside it
    assert UNMEASURED not in lost["reasons"]


def test_a_teacher_near_guessing():
    found = judge(scored(0.25, theirs=0.3), {}, OUT)
    assert found["word"] == "doubtful"
    assert "near guessing (25.0%)" in found["reasons"][0]
    assert "--mean" in found["next"]


def test_segmentation_is_judged_by_its_score_alone():
    plain = {k: v for k, v in scored(0.39, theirs=0.4, key="miou").items() if k != "certificate"}
    assert judge(plain, {}, OUT)["word"] == "usable"
    unknown = {k: v for k, v in GOOD.items() if k != "certificate"}
    assert judge(unknown, {}, OUT)["word"] == "doubtful"


def losses(*values):
    return {i: {"student/kl": v, "generator/bn": 3.0} for i, v in enumerate(values)}


def test_a_loss_that_still_falls():
    falling = judge(GOOD, losses(*[2.0] * 8, *[1.0] * 2), OUT)
    assert falling["word"] == "doubtful"
    assert "still fell by 50%" in falling["reasons"][0]
    for rows in (losses(*[2.0] * 10), losses(*[1.0] * 8, *[2.0] * 2), losses(2.0, 1.0), losses(*[float("nan")] * 10)):
        assert judge(GOOD, rows, OUT)["word"] == "usable"
