"""A suite runs what is not recorded yet, and its table says what the records say."""

import inspect
import json
from pathlib import Path

import pytest
import yaml
from helpers.networks import tiny_network

from dreamstill import api
from dreamstill.commands.bench.run import _run, _thinned
from dreamstill.commands.bench.suite import read_suite
from dreamstill.commands.bench.summaries import (
    best_of_each,
    every_suite,
    headline,
    page_of,
    pages_with_tables,
    summary,
    write_tables,
)
from dreamstill.commands.bench.tables import measured, page, table
from dreamstill.errors import InputError
from dreamstill.methods import names
from dreamstill.networks.load import save_network
from dreamstill.runs.settings import build_method

ROOT = Path(__file__).parents[2]


def record(accuracy, histogram=(5, 5), method=None, **changes):
    student = {"name": "s", "params": 10, "accuracy": accuracy, "accuracy_last": accuracy - 0.1}
    teacher = {"name": "t", "params": 100, "accuracy": 0.99}
    summary = {
        "student": student, "teacher": teacher, "agreement": 0.5, "class_histogram": list(histogram), "steps": 30,
        "wall_seconds": 12.0, "total_flops": 3e12, "data": "digits", "selection": "rule", "precision": "32",
        "machine": {"cpu": "c", "threads": 2, "torch": "2", "gpu": None}, "device": "cpu", "outside_information": [],
    }  # fmt: skip
    return json.dumps({"settings": {"method": method or {"name": "ddad"}}, "summary": summary | changes})


@pytest.fixture
def suite(tmp_path):
    folder = tmp_path / "benchmarks"
    (folder / "records" / "small").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    rows = [{"name": "One row", "recipe": "recipes/a.yaml"}, {"name": "other", "recipe": "recipes/a.yaml"}]
    content = {"title": "A title", "about": "What all share.", "note": "A note.", "seeds": [0, 1], "rows": rows}
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    return folder / "small.yaml"


def rows_of(text):
    """The cells of a Markdown text's tables by their first one; of two tables with a row of one name both."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| ") and "---" not in line:
            first, *others = (cell.strip() for cell in line[2:-1].split("|"))
            found.setdefault(first, []).append(others)
    return found


def test_mean_and_spread_over_seeds(suite):
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.8, (8, 2)))
    plan.record(plan.rows[0], 1).write_text(record(0.9, (6, 4)))
    text = table(plan)
    assert rows_of(text)["One row"] == [
        ["85.0 ± 7.1", "85.9 ± 7.1", "50.0 ± 0.0", "2"],
        ["30", "12 s", "3 TFLOP", "10", "75.0 ± 7.1", "70.0 ± 14.1"],
    ]
    assert "Not measured yet: other." in text
    assert "other" not in rows_of(text)
    assert text.index("## A title") < text.index("What all share.") < text.index("| One row") < text.index("A note.")


def test_relative_to_the_teacher_and_to_a_student_with_the_real_data(suite):
    (plan,) = read_suite(suite)
    real = {"name": "real_data", "loss": "labels"}
    plan.record(plan.rows[0], 0).write_text(record(0.8))
    plan.record(plan.rows[1], 0).write_text(record(0.9, method=real))
    assert "real-data" not in table(plan)  # labels are not what the method's student had
    plan.record(plan.rows[1], 0).write_text(record(0.9, method=real | {"loss": "kd"}))
    text = table(plan)
    assert "| of the teacher's, % | of the real-data student's, % |" in text
    assert rows_of(text)["One row"][0][:3] == ["80.0", "80.8", "88.9"]
    assert rows_of(text)["other"][0][:3] == ["90.0", "90.9", "100.0"]


def test_a_row_is_called_by_its_label_and_its_settings_stand_below(suite):
    content = yaml.safe_load(suite.read_text())
    long = content["rows"][0] | {"label": "Short, more", "published": "99 (somebody)"}
    content["rows"][0] = long | {"settings": {"steps": 9, "method": {"alpha": 10.0, "reuse": True}}}
    suite.write_text(yaml.safe_dump(content | {"shared": {"data": "digits"}}))
    (plan,) = read_suite(suite)
    assert plan.rows[0].method == "Short"
    for row in plan.rows:
        plan.record(row, 0).write_text(record(0.8))
    text = table(plan)
    assert rows_of(text)["Short, more"][0][-1] == "99 (somebody)"
    assert rows_of(text)["other"][0][-1] == ""
    assert "One row" not in text
    assert "Every row: `data: digits`." in text
    assert "- Short, more: [a](../../recipes/a.yaml) with `steps: 9`, `alpha: 10.0`, `reuse: true`" in text
    assert "- other: [a](../../recipes/a.yaml)\n" in text


def test_how_many_images_are_of_the_class_asked_for(suite):
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.8, preset={"share": 0.9}))
    plan.record(plan.rows[0], 1).write_text(record(0.8))  # of an older version that did not look
    plan.record(plan.rows[1], 0).write_text(record(0.8))
    assert rows_of(table(plan))["One row"][1][-1] == "90.0"
    assert rows_of(table(plan))["other"][1][-1] == ""
    plan.record(plan.rows[0], 0).write_text(record(0.8))
    assert "label fidelity" not in table(plan)


def test_students_of_several_sizes_are_all_named(suite):
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.8))
    larger = {"name": "shared_classifier", "params": 12_345, "accuracy": 0.8, "accuracy_last": 0.8}
    plan.record(plan.rows[1], 0).write_text(record(0.8, student=larger))
    text = table(plan)
    assert "student s, 10 parameters or shared_classifier, 12,345 parameters. Scored" in text
    assert rows_of(text)["other"][1][3] == "12,345"


def test_rows_of_several_machines_say_so(suite):
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.8))
    plan.record(plan.rows[0], 1).write_text(record(0.8))
    other = {"cpu": "c", "threads": 1, "torch": "2", "gpu": None}
    plan.record(plan.rows[1], 0).write_text(record(0.9, precision="bf16", machine=other))
    text = table(plan)
    assert "Scored on digits. Delivered weights: rule. Machine: c, 2 threads, torch 2, float32; c, 1 thread" in text
    assert rows_of(text)["One row"][1][1] == "12 s"
    assert rows_of(text)["other"][1][1] == "12 s, bf16"
    plan.record(plan.rows[1], 0).write_text(
        record(0.9, precision="bf16", device="cuda", machine=other | {"gpu": "a GPU"})
    )
    assert "; a GPU, torch 2, bf16." in table(plan)


def test_networks_that_give_maps_are_judged_by_mean_iou(suite):
    (plan,) = read_suite(suite)
    student = {"name": "s", "params": 10, "miou": 0.3, "miou_last": 0.2, "pixel_accuracy": 0.9}
    teacher = {"name": "t", "params": 100, "miou": 0.4}
    plan.record(plan.rows[0], 0).write_text(record(0.5, student=student, teacher=teacher))
    text = table(plan)
    assert "| mean IoU, % |" in text
    assert "accuracy, %" not in text
    assert rows_of(text)["One row"][0] == ["30.0", "75.0", "50.0", "1"]
    assert rows_of(text)["One row"][1][4] == "20.0"
    assert "100 parameters, mean IoU 40.00%" in text


@pytest.fixture
def compared(suite):
    """A table with two methods, a control, a student with collected images and one with the real data."""
    kinds = {
        "DDAD": {"name": "ddad"}, "DDAD, more steps": {"name": "ddad"}, "DDAD, tuned on the test set": {"name": "ddad"},
        "DDAD, one seed": {"name": "ddad"}, "CGDD": {"name": "cgdd"}, "noise": {"name": "noise"},
        "HiDFD": {"name": "hidfd"}, "labels": {"name": "real_data", "loss": "labels"},
        "real data": {"name": "real_data", "loss": "kd"},
    }  # fmt: skip
    rows = [{"name": name, "recipe": "recipes/a.yaml", "summary": "test set" not in name} for name in kinds]
    content = {"title": "Digits, A to B", "seeds": [0, 1], "show": "readme", "rows": rows}
    suite.write_text(yaml.safe_dump({"title": "Small ones", "tables": {"here": content}}))
    (plan,) = read_suite(suite)
    scores = (0.6, 0.7, 0.9, 0.8, 0.5, 0.2, 0.85, 0.92, 0.88)
    for row, score in zip(plan.rows, scores, strict=True):
        kind = kinds[row.name]
        outside = {"hidfd": ["5 collected images"], "real_data": ["real images"]}.get(kind["name"], [])
        for seed in (0,) if "one seed" in row.name else (0, 1):
            plan.record(row, seed).write_text(record(score + seed / 50, method=kind, outside_information=outside))
    return plan


def test_a_method_is_summed_up_by_its_best_row_of_most_seeds(compared):
    found = best_of_each(measured(compared))
    assert [row.name for row in found] == ["labels", "real data", "HiDFD", "DDAD, more steps", "CGDD", "noise"]


def test_the_page_of_results_has_a_row_a_method(compared):
    lines = summary(every_suite(compared.root))
    assert {line.count("|") for line in lines} == {6}  # five columns
    assert len(lines) == 2 + 6
    link = "[Digits, A to B](docs/results/small.md#digits-a-to-b)"
    assert lines[2].startswith(f"| {link} | labels (sees real images) |")
    assert "|  | DDAD, more steps | 71.0 ± 1.4 | 79.8 ± 1.6 | 12 s |" in lines
    assert any("| noise (control) |" in line for line in lines)
    assert any("| HiDFD (sees real images) |" in line for line in lines)


def test_the_readmes_table_has_the_best_student_between_its_yardsticks(compared):
    head, _, row = headline(every_suite(compared.root))
    assert head.count("|") == 5  # four columns
    assert row.endswith("); teacher 99.0 | 71.0 ± 1.4 (DDAD) | 89.0 ± 1.4 | 21.0 ± 1.4 (noise) |")
    for seed in (0, 1):
        compared.record(compared.rows[5], seed).unlink()
    assert headline(every_suite(compared.root))[2].endswith("| not measured |")


def test_tables_stand_where_a_page_has_a_place_for_them(compared, tmp_path):
    (tmp_path / "docs" / "methods").mkdir(parents=True)
    pages = {"README.md": "readme", "RESULTS.md": "summary", "docs/methods/ddad.md": "method ddad"}
    pages |= {"docs/methods/cpsc.md": "method cpsc", "docs/other.md": "something else"}
    for name, mark in pages.items():
        (tmp_path / name).write_text(f"before\n<!-- bench:{mark} -->\nold\n<!-- /bench -->\nafter\n")
    write_tables([compared])
    texts = {name: (tmp_path / name).read_text() for name in pages}
    for name, mark in pages.items():
        assert texts[name].startswith(f"before\n<!-- bench:{mark} -->\n")
        assert texts[name].endswith("\n<!-- /bench -->\nafter\n")
        assert ("\nold\n" in texts[name]) == (name == "docs/other.md")
    assert "| best control, % |" in texts["README.md"]
    assert texts["docs/methods/ddad.md"].count("](../results/small.md#digits-a-to-b)") == 1
    assert texts["docs/methods/ddad.md"].count("| DDAD") == 4  # all rows, not the best
    assert "has no measured row yet" in texts["docs/methods/cpsc.md"]
    assert (tmp_path / "docs/results/small.md").read_text() == page([compared])


def test_only_tables_that_say_so_are_summed_up(compared):
    content = yaml.safe_load(compared.path.read_text())
    for show, titles in (("page", []), ("summary", ["Digits, A to B"]), ("readme", ["Digits, A to B"])):
        content["tables"]["here"]["show"] = show
        compared.path.write_text(yaml.safe_dump(content))
        suites = every_suite(compared.root)
        assert [rows[0].plan.title for rows in suites] == titles
        assert len(headline(suites)) == 2 + (show == "readme")
    content["tables"]["here"]["show"] = "somewhere"
    compared.path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="show: somewhere, expected one of page, summary, readme"):
        read_suite(compared.path)


def test_a_suites_page_has_one_heading_and_one_a_table(suite, compared):
    text = page(read_suite(suite))
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# Small ones", "## Digits, A to B"]
    content = yaml.safe_load(suite.read_text())["tables"]["here"]
    suite.write_text(yaml.safe_dump(content))
    text = page(read_suite(suite))
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# Digits, A to B"]


@pytest.mark.slow
def test_runs_what_is_missing_and_makes_the_page(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "teacher.safetensors", tiny_network((4, 6), 0, num_classes=10))
    recipe = {
        "teacher_checkpoint": "teacher.safetensors", "student": "convnet", "student_args": {"widths": [2, 3]},
        "steps": 3, "data": "digits", "onnx": False, "method": {"name": "noise", "batch_size": 8},
    }  # fmt: skip
    (tmp_path / "recipes" / "a.yaml").write_text(yaml.safe_dump(recipe))
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.5))
    api.bench("small", seeds=[0], quiet=True)
    assert json.loads(plan.record(plan.rows[0], 0).read_text())["summary"]["wall_seconds"] == 12.0  # not run again
    made = json.loads(plan.record(plan.rows[1], 0).read_text())
    assert made["summary"]["steps"] == 3
    assert made["recipe"] == "recipes/a.yaml"
    assert made["settings"]["seed"] == 0
    assert [row["step"] for row in made["curve"]] == [1, 2, 3]
    assert made["curve"][-1]["eval/accuracy"] == pytest.approx(made["summary"]["student"]["accuracy"], abs=0.01)
    assert all(row["student/kl"] > 0 for row in made["curve"])
    assert (tmp_path / "docs/results/small.md").read_text() == page([plan])
    assert "Not measured" not in page([plan])
    # What is missing, two at a time: one that fails, and one that is recorded nevertheless.
    content = yaml.safe_load(suite.read_text())
    content["rows"][0]["settings"] = {"teacher_checkpoint": "gone.safetensors"}
    suite.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"1 of 2 runs failed.*One row, seed 1: .*does not exist"):
        api.bench("small", jobs=2, quiet=True)
    assert [plan.record(row, 1).exists() for row in plan.rows] == [False, True]


def test_several_tables(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = yaml.safe_load(suite.read_text())
    suite.write_text(yaml.safe_dump({"tables": {"a": one, "b": {**one, "title": "Another", "seeds": [0]}}}))
    a, b = read_suite(suite)
    assert a.record(a.rows[0], 0) != b.record(b.rows[0], 0)
    for plan in (a, b):
        for row in plan.rows:
            for seed in plan.seeds:
                plan.record(row, seed).write_text(record(0.8 if plan is a else 0.6))
    text = api.bench("small", quiet=True)
    assert text.startswith("# small\n")
    assert text.index("## A title") < text.index("80.0 ± 0.0") < text.index("## Another") < text.index("60.0")
    with pytest.raises(InputError, match="the tables a, b, not all of c"):
        api.bench("small", tables=["c"], quiet=True)


def test_a_row_may_have_seeds_of_its_own(suite):
    one = yaml.safe_load(suite.read_text())
    one["rows"][1]["seeds"] = [5]
    suite.write_text(yaml.safe_dump(one))
    (plan,) = read_suite(suite)
    assert [(row.name, seed) for row, seed in plan.runs()] == [("One row", 0), ("other", 5), ("One row", 1)]
    plan.record(plan.rows[1], 0).write_text(record(0.1))
    plan.record(plan.rows[1], 5).write_text(record(0.7))
    assert rows_of(table(plan))["other"][0][0] == "70.0"


def test_a_record_keeps_the_course_of_a_run_in_few_rows():
    rows = {s: {"student/kl": 1 / 3} | ({"eval/accuracy": s / 1000} if s % 250 == 0 else {}) for s in range(1, 1001)}
    kept = _thinned(rows)
    assert [row["step"] for row in kept if "eval/accuracy" in row] == [250, 500, 750, 1000]
    assert 20 <= len(kept) <= 26
    assert kept[0] == {"step": 1, "student/kl": 0.333333}
    assert len(_thinned({1: {"a": 1.0}, 2: {"a": 2.0}})) == 2
    assert _thinned({}) == []


def test_a_finished_run_of_other_settings_is_not_recorded_as_the_rows(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "teacher.safetensors", tiny_network((4, 6), 0, num_classes=10))
    recipe = {
        "teacher_checkpoint": "teacher.safetensors", "student": "convnet", "student_args": {"widths": [2, 3]},
        "steps": 2, "data": "digits", "onnx": False, "evaluations": 0, "method": {"name": "noise", "batch_size": 8},
        # What a run's own config.yaml has too.
        "data_root": None, "out": "elsewhere", "quiet": False, "resume": False,
    }  # fmt: skip
    (tmp_path / "recipes" / "a.yaml").write_text(yaml.safe_dump(recipe))
    api.bench("small", seeds=[0], rows=["other"], quiet=True)
    (plan,) = read_suite(suite)
    record_file = plan.record(plan.rows[1], 0)
    record_file.unlink()
    api.bench("small", seeds=[0], rows=["other"], quiet=True)  # the run is there: recorded again
    assert json.loads(record_file.read_text())["summary"]["steps"] == 2
    record_file.unlink()
    recipe["steps"], recipe["method"]["batch_size"] = 3, 16
    (tmp_path / "recipes" / "a.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=r"method\.batch_size 8 where the row has 16, steps 2 where the row has 3"):
        api.bench("small", seeds=[0], rows=["other"], quiet=True)
    assert not record_file.exists()


def test_a_method_by_its_name_alone_is_a_row_too(suite, tmp_path):
    (tmp_path / "recipes" / "a.yaml").write_text(yaml.safe_dump({"student": "convnet", "method": "noise"}))
    (plan,) = read_suite(suite)
    assert plan.settings(plan.rows[0])["method"] == {"name": "noise"}
    (tmp_path / "recipes" / "a.yaml").write_text(yaml.safe_dump({"student": "convnet"}))
    assert plan.settings(plan.rows[0])["method"] == {"name": "ddad"}


def test_a_table_without_any_record(suite):
    (plan,) = read_suite(suite)
    assert table(plan) == (
        "## A title\n\nWhat all share.\n\nNot measured yet: One row; other.\n\n"
        "`dreamstill bench small --data-root DATA`\n"
    )


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*.yaml")), ids=lambda p: p.stem)
def test_the_suites_that_come_with_it_can_be_run(path):
    known = inspect.signature(api.distill).parameters
    for plan in read_suite(path):
        records = [plan.record(row, seed) for row, seed in plan.runs()]
        assert len(set(records)) == len(records)
        for row in plan.rows:
            settings = plan.settings(row)
            assert settings.keys() <= known.keys()
            build_method(settings["method"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*.yaml")), ids=lambda p: p.stem)
def test_the_pages_that_come_with_it_are_of_the_records_that_do(path):
    plans = read_suite(path)
    assert (ROOT / page_of(plans[0])).read_text() == page(plans), "python benchmarks/pages.py makes it again"


def test_the_summaries_that_come_with_it_are_of_the_records_that_do():
    pages = pages_with_tables(ROOT)
    for path, text in pages.items():
        assert path.read_text() == text, f"{path}: python benchmarks/pages.py makes it again"
    own = {f"docs/methods/{name}.md" for name, package in names().items() if not package.endswith("controls")}
    assert {str(path.relative_to(ROOT)) for path in pages} == {"README.md", "RESULTS.md", *own}


def test_the_readmes_table_is_small_and_its_page_of_results_has_five_columns():
    suites = every_suite(ROOT)
    assert 2 < len(headline(suites)) <= 2 + 6
    assert {line.count("|") for line in headline(suites)} == {4 + 1}
    assert {line.count("|") for line in summary(suites)} == {5 + 1}
    assert max(len(row.name) for rows in suites for row in rows) <= 42


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*.yaml")), ids=lambda p: p.stem)
def test_every_record_was_made_with_what_its_row_says_now(path):
    for plan in read_suite(path):
        for row, seed in plan.runs():
            if plan.record(row, seed).exists():
                made, now = json.loads(plan.record(row, seed).read_text())["settings"], plan.settings(row)
                assert build_method(made.pop("method")) == build_method(now.pop("method")), (row.name, seed)
                for checkpoint in ("teacher_checkpoint", "student_checkpoint"):
                    assert str(made.pop(checkpoint, "")).endswith(now.pop(checkpoint, "")), (row.name, seed)
                for settings in (made, now):
                    settings.pop("onnx", None)  # whether the finished student was exported changes no figure
                assert made == {**now, "seed": seed}, (row.name, seed)


def test_a_row_says_only_what_it_changes_in_the_method(suite):
    recipe = {"steps": 9, "method": {"name": "noise", "batch_size": 8, "lr_s": 0.1}}
    (suite.parent.parent / "recipes" / "a.yaml").write_text(yaml.safe_dump(recipe))
    content = yaml.safe_load(suite.read_text())
    content["rows"][0]["settings"] = {"method": {"lr_s": 0.5}}
    content["rows"][1]["settings"] = {"steps": 3, "method": {"name": "ddad"}}
    suite.write_text(yaml.safe_dump({**content, "shared": {"steps": 1, "evaluations": 2}}))
    (plan,) = read_suite(suite)
    changed = {"name": "noise", "batch_size": 8, "lr_s": 0.5}
    assert plan.settings(plan.rows[0]) == {"steps": 9, "evaluations": 2, "method": changed}
    assert plan.settings(plan.rows[1]) == {"steps": 3, "evaluations": 2, "method": {"name": "ddad"}}


def test_mistakes(suite):
    with pytest.raises(InputError, match="cannot be read"):
        read_suite(suite.with_name("none.yaml"))
    with pytest.raises(InputError, match="not all of nothing"):
        api.bench(str(suite), rows=["nothing"], quiet=True)
    suite.write_text("title: a\nrows: []\nseeds: [0]\ncolour: red\n")
    with pytest.raises(InputError, match="colour"):
        read_suite(suite)


GOOD = {"title": "a", "seeds": [0], "rows": [{"name": "a", "recipe": "recipes/a.yaml"}]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"), (b"- 1\n", "holds a list"), (bytes(range(256)), "cannot be read"),
        (b"a: [", "cannot be read"),
        ({"tables": 3}, "the tables 3"), ({"tables": {"a": 3}}, "the tables"), ({**GOOD, "seeds": 0}, "the seeds 0"),
        ({**GOOD, "seeds": ["x"]}, "the seeds"), ({**GOOD, "rows": None}, "the rows None"),
        ({**GOOD, "rows": ["a"]}, "the row a"), ({**GOOD, "rows": [{"name": "a"}]}, "the row"),
        ({**GOOD, "rows": [{"name": "a", "recipe": 5}]}, "recipe: 5, expected a text"),
        ({**GOOD, "rows": [{"name": "a", "recipe": "b", "seeds": 1}]}, "seeds: 1, expected a list"),
        ({**GOOD, "shared": [1]}, "shared"),
    ],
)  # fmt: skip
def test_a_suite_that_is_none_is_one_sentence(suite, content, said):
    suite.write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
    with pytest.raises(InputError, match=said) as caught:
        api.bench(str(suite), quiet=True)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_missing_or_wrong_is_found_before_the_first_run(suite):
    with pytest.raises(InputError, match=r"recipes/a\.yaml cannot be read \(No such file.*row One row"):
        api.bench(str(suite), quiet=True)
    (suite.parent.parent / "recipes" / "a.yaml").write_text("stepz: 5\n")
    with pytest.raises(InputError, match="sets stepz: expected arguments of dreamstill distill"):
        api.bench(str(suite), quiet=True)


@pytest.mark.parametrize("jobs", [0, -2])
def test_jobs_below_one(suite, jobs):
    with pytest.raises(InputError, match=f"jobs is {jobs}"):
        api.bench(str(suite), jobs=jobs, quiet=True)


def test_a_rows_files_are_found_from_the_suites_root(tmp_path, monkeypatch):
    class Halt(Exception):
        pass

    asked = {}

    def distill(settings):
        asked.update(vars(settings))
        raise Halt

    monkeypatch.setattr("dreamstill.commands.bench.run.run_distillation", distill)
    rows = [{"name": "a", "recipe": "a.yaml", "settings": {"teacher_checkpoint": "t", "student_checkpoint": "s"}}]
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "x.yaml").write_text(yaml.safe_dump({"title": "a", "seeds": [0], "rows": rows}))
    (tmp_path / "a.yaml").write_text("steps: 1\n")
    (plan,) = read_suite(tmp_path / "benchmarks" / "x.yaml")
    with pytest.raises(Halt):
        _run(plan, plan.rows[0], 0, None, True)
    assert (asked["teacher_checkpoint"], asked["student_checkpoint"]) == (str(tmp_path / "t"), str(tmp_path / "s"))
