import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch
import yaml

from dreamstill.errors import InputError
from dreamstill.report import numbers, plots, write_report
from dreamstill.report.dense import class_table
from dreamstill.runs.duration import duration
from dreamstill.tasks.sample_grid import sample_grid

pytestmark = pytest.mark.whole_end

MACHINE = {
    "cpu": "Example CPU 9", "cores": 2, "threads": 1, "memory_bytes": 25_276_510_208, "gpu": None,
    "torch": "2.15.0", "system": "Linux x86_64",
}  # fmt: skip
SUMMARY = {
    "schema": 1, "command": "distill", "name": "demo", "method": "ddad", "paper": "Zhao et al., arXiv:2104.05382",
    "teacher": {
        "name": "convnet", "params": 94_346, "flops": 1_212_000, "bytes": 378_100, "accuracy": 0.976, "ece": 0.012,
    },
    "student": {
        "name": "smallnet", "params": 12_345, "flops": 101_000, "bytes": 50_200, "accuracy": 0.954,
        "accuracy_last": 0.948, "ece": 0.021, "per_class": [0.9, 0.75, 1.0],
    },
    "agreement": 0.962, "relative_accuracy": 0.9775, "agreement_synthetic": 0.988,
    "confusion": [[9, 1, 0], [3, 12, 1], [0, 0, 7]],
    "classes": ["cat", "dog", "fox"], "class_histogram": [400, 350, 250], "clipped_share": 0.034,
    "images_synthesised": 192_000, "wall_seconds": 72.4,
    "seconds": {"training": 66.0, "evaluation": 2.2, "finishing": 4.2}, "steps": 1500, "generator_steps": 1400,
    "total_flops": 3.3e12, "peak_memory_bytes": 612_000_000, "seed": 7, "device": "cpu", "precision": "bf16",
    "compile": False, "machine": MACHINE, "selection": "average of the last weights; no labelled image chose it",
    "outside_information": [], "data": "digits, test, 500 images",
    "onnx": {"file": "student.onnx", "max_difference": 1.2e-6},
}  # fmt: skip
CERTIFICATE = {
    "agreement": 0.712, "ece": 0.083, "worst_class": {"class": 2, "agreement": 0.4},
    "coverage": {"seen": 3, "missing": [2], "largest": {"class": 1, "share": 0.55, "teacher": 0.35}},
    "sources": [
        {"name": "mixed", "images": 400, "weight": 0.6, "agreement": 0.8, "ece": 0.1, "bn_distance": 0.04,
         "confidence": 0.7, "evenness": 0.9, "largest_share": 0.5, "largest_answer": 0.5},
        {"name": "white noise", "images": 400, "weight": 0.2, "agreement": 0.3, "ece": 0.2, "bn_distance": None,
         "confidence": 0.9, "evenness": 0.3, "largest_share": 0.9, "largest_answer": 0.9},
    ],
    "left_out": [], "variation": 0.8,
    "teacher": {"output": "logits", "normalisation": {"verdict": "plausible", "why": "it fits"}},
}  # fmt: skip
VERDICT = {"word": "doubtful", "reasons": ["it is <slow>", "it was not measured"], "next": "dreamstill evaluate a&b"}
MANIFEST = {
    "schema": 1, "versions": {"python": "3.11.7", "dreamstill": "0.1.0", "torch": "2.15.0"}, "commit": "8bba0c8",
    "command": "dreamstill distill --student smallnet", "hardware": MACHINE, "threads": 1, "seed": 7,
    "teacher_sha256": "ab" * 32, "teacher_file": "/models/teacher.safetensors", "outside_information": [],
}  # fmt: skip
NO_TEACHER = {"teacher_sha256": None, "teacher_file": None}
CONFIG = {"student": "smallnet", "method": {"name": "ddad", "alpha": 0.125}, "steps": 1500, "limit": None}
METRICS = """step,seconds,generator/adversarial,generator/bn,student/discrepancy,lr/student,eval/accuracy,eval/agreement
100,1.0,-0.1,3.0,1.2,0.1,,
200,2.0,-0.4,nan,0.8,0.05,0.81,0.79
300,3.0,-1.46,0.02,0.184,0.0,0.943,0.951
"""
SECTIONS = {
    "result", "trust", "curves", "terms", "samples", "synthesised", "classes", "cost", "settings",
}  # fmt: skip
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Text, ids, attributes; fails on a tag that is not closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.ids, self.attributes, self.tags, self._open = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.texts.append(data.strip())

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(t for t in self.texts if t))

    @property
    def sections(self):
        return SECTIONS & set(self.ids)


@pytest.fixture
def run(tmp_path):
    """Write a run folder, changed by the arguments; a key set to None is left out. Returns the parsed page."""

    def make(metrics=METRICS, samples=True, manifest=None, student=None, teacher=None, supervised=False, **changes):
        summary = copy.deepcopy(SUMMARY) | changes
        summary["student"] |= student or {}
        summary["teacher"] = None if supervised else summary["teacher"] | (teacher or {})
        summary = {k: v for k, v in summary.items() if v is not None}
        for side in {"student", "teacher"} & set(summary):
            summary[side] = {k: v for k, v in summary[side].items() if v is not None}
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        (tmp_path / "manifest.json").write_text(
            json.dumps(MANIFEST | (manifest or {}) | (NO_TEACHER if supervised else {}))
        )
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        if metrics:
            (tmp_path / "metrics.csv").write_text(metrics)
        if samples:
            pixels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
            (tmp_path / "samples.png").write_bytes(sample_grid(pixels, torch.arange(3), 3))
        assert write_report(tmp_path) == tmp_path / "report.html"
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    make.folder = tmp_path
    return make


BLIND = {
    "agreement": None, "relative_accuracy": None, "confusion": None, "classes": None, "data": None, "onnx": None,
    "clipped_share": None,
    "class_histogram": None, "student": {"accuracy": None, "accuracy_last": None, "ece": None, "per_class": None},
    "teacher": {"accuracy": None, "ece": None},
}  # fmt: skip


def test_every_section_is_there_and_every_key_number(run):
    page = run()
    assert page.sections == SECTIONS
    for number in [
        "94.3k", "12.3k", "7.6 times smaller", "1.21 MFLOP", "101 kFLOP", "378 kB", "50.2 kB",
        "97.6 %", "95.4 %", "94.8 %", "−2.2 points", "1.2 %", "2.1 %", "+0.9 points", "96.2 %", "98.8 %", "3.4 %",
        "1.2e-06", "192,000", "1 min 12 s", "1 min 6 s", "2.2 s", "4.2 s", "1,500", "1,400", "3.3 TFLOP",
        "50 GFLOP/s", "612 MB", "25.3 GB", "8bba0c8", "ab" * 32, "0.125", "−1.46", "0.184",
    ]:  # fmt: skip
        assert number in page.text, number
    for words in ["Accuracy of the last step, not averaged", "no labelled image chose it", "without any of the data"]:
        assert words in page.text, words


@pytest.mark.slow
def test_relative_accuracy_is_a_row_where_it_was_measured(run):
    name = "Relative accuracy, student over teacher"
    assert f"{name} 97.8 %" in run().text
    assert f"{name} 101.2 %" in run(relative_accuracy=1.0123).text  # a weak teacher can be beaten
    assert name not in run(**BLIND).text


def test_the_page_asks_nothing_of_the_outside(run):
    page = run()
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    html = (run.folder / "report.html").read_text()
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http" not in html


def test_ids_are_unique_and_references_meet_them(run):
    page = run(class_histogram=[1] * 40)
    assert len(page.ids) == len(set(page.ids))
    html = (run.folder / "report.html").read_text()
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', html))
    assert used  # the markers of short curves
    assert used <= set(page.ids)


def test_charts_leave_colours_to_the_page_and_letters_as_text(run):
    run()
    html = (run.folder / "report.html").read_text()
    svgs = re.findall(r'<svg class="plot".*?</svg>', html, flags=re.S)
    assert len(svgs) == 6  # two evaluations, four terms and rates
    for svg in svgs:
        assert re.search(r'role="img" aria-label="[^"]+"><title>[^<]+</title>', svg)
        assert "<style" not in svg
        assert "<text" in svg
        assert "font-family" not in svg
        assert re.search(r"stroke: var\(--series-\d\)", svg)
        assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_names_that_look_like_code_are_only_shown(run):
    evil = "<script>alert(1)</script>"
    page = run(
        classes=[evil, '"><img src=x onerror=alert(1)>', "</style>"], class_histogram=[0, 3, 3], data=evil,
        student={"name": evil}, outside_information=[evil], paper=evil, method=evil,
        manifest={"command": evil, "teacher_file": "</code><b>"},
        metrics=METRICS.replace("generator/bn", "generator/<script>$x$"),
    )  # fmt: skip
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.text.count(evil) >= 6
    assert "<script>$x$" in page.text


def test_what_was_not_measured_is_left_out(run):
    page = run(metrics=None, samples=False, **BLIND)
    assert page.sections == {"result", "trust", "cost", "settings"}
    assert "Accuracy" not in page.text
    assert "Calibration" not in page.text
    assert "ONNX" not in page.text
    assert "not measured" in page.text
    assert "98.8 % agreement" not in page.text  # that on synthetic images is no headline
    assert page.text.index("98.8 %") > page.text.index("How far it can be trusted")


def test_curves_are_left_out_when_nothing_was_evaluated(run):
    page = run(metrics="step,seconds,student/discrepancy\n10,1.0,0.5\n20,2.0,0.25\n")
    assert "curves" not in page.sections
    assert "terms" in page.sections


def test_a_metrics_file_of_one_row_or_none_is_enough(run):
    assert "terms" in run(metrics="step,seconds,student/discrepancy\n10,1.0,0.5\n").sections
    assert "terms" not in run(metrics="step,seconds\n").sections
    assert "terms" not in run(metrics="step,seconds,student/discrepancy\n10,1.0,nan\n").sections


def test_supervised_training_shows_the_network_alone(run):
    page = run(
        command="train", method="supervised", agreement=None, relative_accuracy=None, agreement_synthetic=None,
        class_histogram=None,
        generator_steps=0, images_synthesised=0, samples=False, onnx=None, supervised=True,
        metrics="step,seconds,student/cross_entropy,lr/student,eval/accuracy\n10,1.0,2.0,0.1,\n20,2.0,1.0,0.0,0.9\n",
    )  # fmt: skip
    assert page.sections == {"result", "curves", "terms", "classes", "cost", "settings"}
    assert "eacher" not in page.text
    assert "12.3k" in page.text
    assert "95.4 %" in page.text
    assert "was trained on labelled images" in page.text
    assert "no labelled image chose it" in page.text
    assert "synthesised" not in page.text


@pytest.mark.parametrize(
    ("counts", "missing", "prevails"),
    [
        ([400, 350, 250], None, False),
        ([500, 250, 250], None, False),  # half is not more than half
        ([501, 250, 249], None, True),
        ([500, 0, 500], "1 of the 3 classes never appears among 1,000 fresh synthetic images: dog.", False),
        ([0, 0, 10], "2 of the 3 classes never appear among 10 fresh synthetic images: cat and dog.", True),
    ],
)
def test_warnings_come_exactly_when_they_are_due(run, counts, missing, prevails):
    text = run(class_histogram=counts).text
    assert ("never appear" in text) == (missing is not None)
    assert missing is None or missing in text
    assert ("More than half of the fresh synthetic images are of one class" in text) == prevails
    assert text.count("Warning.") == (missing is not None) + prevails
    assert f"{sum(c > 0 for c in counts)} of 3" in text


@pytest.mark.parametrize(
    ("kind", "learnt", "agreement", "counted"),
    [
        ("fresh", "It learnt from synthetic images in 1,500 steps", "Agreement on synthetic images", "fresh synthetic"),
        ("stored", "It learnt from synthetic images", "Agreement on synthetic images", "synthetic images that the st"),
        ("real", "It learnt from real images", "Agreement on its training images", "real images that the student"),
    ],
)
def test_what_images_are_shown_is_said(run, kind, learnt, agreement, counted):
    text = run(images_are=kind, class_histogram=[400, 350, 250]).text
    assert learnt in text
    assert agreement in text
    assert f"1,000 {counted}" in text
    assert ("What was synthesised" in text) == (kind != "real")


def test_the_confusion_of_few_classes_is_a_heat_map(run):
    page = run()
    titles = [v for tag, name, v in page.attributes if tag == "td" and name == "title"]
    assert len(titles) == 9
    assert "dog taken for cat: 3 of 16" in titles
    # Right answers are shaded by their share, errors by its root.
    shades = [v for tag, name, v in page.attributes if tag == "td" and name == "style" and "--a" in v]
    assert shades[3:6] == ["--a:0.433", "--a:0.750", "--a:0.250"]
    assert "90.0 %" in page.text


def test_of_many_classes_the_worst_are_listed(run):
    k = 30
    confusion = (torch.eye(k, dtype=torch.int64) * 100).tolist()
    confusion[17][17], confusion[17][4], confusion[17][5] = 40, 50, 10
    confusion[8][8], confusion[8][9] = 70, 30
    confusion[20] = [0] * k
    page = run(confusion=confusion, classes=None, student={"per_class": None}, class_histogram=[5] * k)
    rows = page.text[page.text.index("Most often taken for") :]
    assert rows.split("Most often taken for ")[1].startswith("17 40.0 % 4 (50.0 %) 8 70.0 % 9 (30.0 %)")
    assert rows.count("100.0 %") == 8  # ten in all
    assert "1 class had no labelled image" in page.text
    assert not [1 for tag, _, v in page.attributes if tag == "td" and "--a" in v]


def test_accuracies_without_a_confusion_are_listed_worst_first(run):
    text = run(confusion=None).text
    assert "dog 75.0 % – cat 90.0 % – fox 100.0 %" in text


@pytest.mark.slow
def test_a_thousand_classes_make_a_page_of_ordinary_size(run):
    k = 1000
    confusion = [[10 if i == j else 0 for j in range(k)] for i in range(k)]
    page = run(
        confusion=confusion, classes=[f"kind {i}" for i in range(k)], class_histogram=[0] * 300 + [4] * 700,
        student={"per_class": [1.0] * k},
    )  # fmt: skip
    assert "300 of the 1,000 classes never appear" in page.text
    assert "kind 9 and 290 more" in page.text
    assert (run.folder / "report.html").stat().st_size < 1_000_000


def test_batch_norms_that_no_term_reads_are_named(run):
    text = run(bn_left_out=["classifier.0.convs.4.2"]).text
    assert "Batch-norm statistics not used" in text
    assert "classifier.0.convs.4.2" in text


def test_outside_information_is_not_hidden(run):
    text = run(outside_information=["real training images", "class names"]).text
    assert "with outside information: real training images and class names" in text
    assert "without any of the data" not in text


def test_a_larger_student_is_not_called_smaller(run):
    text = run(student={"params": 200_000}).text
    assert "2.1 times larger than its teacher" in text
    assert "12 times smaller" in text  # operations an image still are
    text = run(student={"params": 94_346, "bytes": 378_100}).text
    assert "is as large as its teacher" in text


def test_the_squares_are_drawn_to_scale(run):
    def sides(page):
        return [float(v.removeprefix("--side:")) for tag, name, v in page.attributes if v.startswith("--side")]

    teacher, student = sides(run())
    assert (teacher, student) == (1.0, pytest.approx((12_345 / 94_346) ** 0.5, abs=1e-4))
    teacher, student = sides(run(student={"params": 4 * 94_346}))
    assert (teacher, student) == (0.5, 1.0)


def test_a_failed_write_leaves_the_page_before(run, monkeypatch):
    run()
    before = (run.folder / "report.html").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    (run.folder / "samples.png").unlink()
    with pytest.raises(InputError, match="No space left"):
        write_report(run.folder)
    assert (run.folder / "report.html").read_bytes() == before


def test_a_network_without_parameters_is_still_reported(run):
    assert "The student smallnet (0 parameters) has the teacher convnet" in run(student={"params": 0, "flops": 0}).text


@pytest.mark.slow
def test_the_page_of_a_run_is_the_same_every_time(run):
    run()
    first = (run.folder / "report.html").read_bytes()
    write_report(run.folder)
    assert (run.folder / "report.html").read_bytes() == first
    assert not list(run.folder.glob(".*tmp"))


def test_delivered_files_are_named_with_their_size(run):
    (run.folder / "student.safetensors").write_bytes(b"0" * 51_300)
    assert "student.safetensors PyTorch weights with their description, 51.3 kB" in run().text


@pytest.mark.parametrize("name", ["summary.json", "manifest.json", "config.yaml"])
def test_a_missing_file_is_named(run, name):
    run()
    (run.folder / "report.html").unlink()
    (run.folder / name).unlink()
    with pytest.raises(InputError, match=f"holds no {name}"):
        write_report(run.folder)
    assert not (run.folder / "report.html").exists()


def test_a_broken_or_newer_summary_is_refused(run):
    run()
    (run.folder / "summary.json").write_text('{"schema": 2}')
    with pytest.raises(InputError, match="schema 2"):
        write_report(run.folder)
    (run.folder / "summary.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        write_report(run.folder)


@pytest.mark.parametrize("classes", [3, 30])
def test_without_matplotlib_the_page_says_so_once_and_keeps_the_numbers(run, monkeypatch, classes):
    counts = [400] * classes
    drawn = run(class_histogram=counts)
    assert "not drawn" not in drawn.text
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = run(class_histogram=counts)
    assert page.text.count("pip install 'dreamstill[plots]'") == 1
    assert page.sections == drawn.sections
    for shown in ("−1.46", "0.184", "94.3 %", "between 400 and 400 a class"):
        assert shown in drawn.text
        assert shown in page.text
    assert ("svg", "class", "plot") in drawn.attributes
    assert ("svg", "class", "plot") not in page.attributes


@pytest.mark.slow
def test_reporting_leaves_matplotlib_as_it_was():
    code = (
        "import matplotlib; before = matplotlib.rcParams.copy()\n"
        "from dreamstill.report import plots\n"
        "plots.curve('a', [1, 2], [0.1, 0.2], title='t'); plots.bars('b', [1, 2], title='t')\n"
        "assert matplotlib.rcParams.copy() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_curve_goes_through_its_points_and_shows_the_level():
    svg = plots.curve("k", [0, 10], [0.5, 1.0], title="a < b", percent=True, level=0.75)
    assert 'aria-label="a &lt; b"' in svg
    line = re.search(r'<path d="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)[^"]*" style="[^"]*var\(--series-1\)', svg)
    level = re.search(r'<path d="M [\d.]+ ([\d.]+)[^"]*"[^>]*style="[^"]*stroke-dasharray[^"]*var\(--level\)', svg)
    (x0, y0, x1, y1), y = (float(v) for v in line.groups()), float(level[1])
    assert x0 < x1
    assert y1 < y0  # SVG counts downwards
    assert y == pytest.approx((y0 + y1) / 2, abs=0.01)
    assert " %</text>" in svg


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1k"), (94_346, "94.3k"), (999_600, "1M"),
     (2_255_156, "2.26M"), (3e9, "3B")],
)  # fmt: skip
def test_counts(value, text):
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.43, "0.4 s"), (12.3, "12 s"), (59.97, "1 min 0 s"), (72.4, "1 min 12 s"), (3599.7, "1 h 0 min"),
     (7512, "2 h 5 min"), (90_000, "1 d 1 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0000919, "0.0919 ms"), (0.0832, "83.2 ms"), (1.6493, "1,649 ms")])
def test_milliseconds(seconds, text):
    assert numbers.milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.976, "97.6 %"), (1.0, "100.0 %"), (0.99999, "over 99.9 %"), (0.0001, "under 0.1 %"), (0.0, "0.0 %")],
)  # fmt: skip
def test_percentages_never_round_to_all_or_nothing(share, text):
    assert numbers.percent(share) == text


def test_quantities_and_differences():
    assert numbers.unit(1_212_000, "FLOP") == "1.21 MFLOP"
    assert numbers.unit(3.4e17, "FLOP") == "340 PFLOP"
    assert numbers.unit(12, "B") == "12 B"
    assert (numbers.points(-0.0221), numbers.points(0.009), numbers.points(0.0001)) == (
        "−2.2 points",
        "+0.9 points",
        "0.0 points",
    )
    assert (numbers.times(94, 12.4), numbers.times(1200, 10)) == ("7.6", "120")
    assert numbers.listing(["a", "b", "c"]) == "a, b and c"
    assert numbers.listing([str(i) for i in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_the_label_fidelity_is_said(run):
    text = run(preset={"images": 10_000, "share": 0.912, "worst": {"class": 1, "share": 0.345}}).text
    assert "Label fidelity 91.2 %" in text
    assert "in 10,000 fresh images; least often for dog, 34.5 %." in text


def test_how_far_soft_targets_were_met_is_said(run):
    made = {"images": 5000, "agreement": 0.812, "confidence": 0.678, "target_classes": [1, 4, 5],
            "target_entropy": 0.51, "target_entropy_at_most": 1.1}  # fmt: skip
    text = run(transfer_set=made).text
    assert "Soft targets met 81.2 %" in text
    assert "mean certainty is 67.8 %" in text
    assert "shares from 10.0 % to 50.0 %, their entropy is 0.51 of at most 1.10 nats" in text


def test_the_table_of_classes_of_a_segmentation():
    summary = {"classes": ["sky", "road"], "student": {"iou": [0.5, None]}, "teacher": {"iou": [0.7, 0.2]},
               "confusion": [[6, 2], [0, 0]]}  # fmt: skip
    first, second = class_table(summary)["rows"]
    assert first == {"name": "sky", "share": "100.0 %", "student": "50.0 %", "teacher": "70.0 %",
                     "difference": "−20.0 points", "mistaken": "road (25.0 %)"}  # fmt: skip
    assert (second["share"], second["student"], second["difference"], second["mistaken"]) == ("0.0 %", "–", "", "–")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [(k, None) for k in ("student", "steps", "seconds", "machine", "outside_information", "wall_seconds")]
    + [
        ("student", 3),
        ("classes", 5),
        ("class_histogram", {"a": 1}),
        ("teacher", []),
        ("onnx", "x"),
        ("images_are", "?"),
    ],
)
def test_a_summary_without_its_keys_is_one_sentence(key, value, run):
    run()
    path = run.folder / "summary.json"
    summary = {k: v for k, v in json.loads(path.read_text()).items() if k != key}
    path.write_text(json.dumps(summary if value is None else summary | {key: value}))
    (run.folder / "report.html").unlink()
    with pytest.raises(InputError, match="no report can be made of the files in"):
        write_report(run.folder)
    assert not (run.folder / "report.html").exists()


def test_the_verdict_stands_in_the_head_and_the_certificate_under_trust(run):
    page = run(certificate=CERTIFICATE, verdict=VERDICT)
    assert "Doubtful: It is <slow>. Next: dreamstill evaluate a&b" in page.text  # escaped, or the tags would not close
    for line in (
        "It was not measured.", "Certificate: agreement 71.2 %", "Its worst class 40.0 % Class fox.",
        "Calibration against the teacher 8.3 %", "Largest class 55.0 %", "Classes that it never answers: fox.",
        "400 mixed 75.0 % 80.0 % 10.0 % 70.0 % 0.04", "400 white noise 25.0 % 30.0 % 20.0 % 90.0 % –",
    ):  # fmt: skip
        assert line in page.text
    assert page.text.index("Certificate: agreement") < page.text.index("Agreement on synthetic images")


def test_without_labels_the_head_has_the_certificates_agreement(run):
    page = run(certificate=CERTIFICATE, verdict=VERDICT, **BLIND)
    assert "71.2 % agreement with the teacher on images that it never learned from" in page.text
    assert "98.8 % agreement" not in page.text


def test_a_page_without_a_certificate_says_why(run):
    assert "There is none for networks that give maps." in run(task="segmentation", agreement_synthetic=None).text
    assert "It could not be made: out of <memory>." in run(certificate_error="out of <memory>").text
