"""A suite runs what is not recorded yet, and its table says what the records say."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.networks import tiny_network

from dreamstill import api
from dreamstill.commands.bench.run import _run, _thinned
from dreamstill.commands.bench.suite import read_suite
from dreamstill.commands.bench.tables import table, write_tables
from dreamstill.errors import InputError
from dreamstill.networks.load import save_network
from dreamstill.runs.settings import build_method

ROOT = Path(__file__).parents[2]


def record(accuracy, histogram=(5, 5), method=None, **changes):
    student = {"name": "s", "params": 10, "accuracy": accuracy, "accuracy_last": accuracy - 0.1}
    teacher = {"name": "t", "params": 100, "accuracy": 0.99}
    summary = {
        "student": student, "teacher": teacher, "agreement": 0.5, "class_histogram": list(histogram), "steps": 30,
        "wall_seconds": 12.0, "total_flops": 3e12, "data": "digits", "selection": "rule", "precision": "32",
        "machine": {"cpu": "c", "threads": 2, "torch": "2", "gpu": None}, "device": "cpu",
    }  # fmt: skip
    return json.dumps({"settings": {"method": method or {"name": "ddad"}}, "summary": summary | changes})


@pytest.fixture
def suite(tmp_path):
    folder = tmp_path / "benchmarks"
    (folder / "records" / "small").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    rows = [{"name": "One row", "recipe": "recipes/a.yaml"}, {"name": "other", "recipe": "recipes/a.yaml"}]
    content = {"title": "A title", "note": "A note.", "short": "In short.", "seeds": [0, 1], "rows": rows}
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    return folder / "small.yaml"


def test_mean_and_spread_over_seeds(suite):
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.8, (8, 2)))
    plan.record(plan.rows[0], 1).write_text(record(0.9, (6, 4)))
    lines = table(plan).splitlines()
    (row,) = [line for line in lines if line.startswith("| One row")]
    cells = "10 |  | 85.0 ± 7.1 | 85.9 ± 7.1 | 75.0 ± 7.1 | 50.0 ± 0.0 | 70.0 ± 14.1 | 30 | 3 TFLOP | 12 s | 2"
    assert row == f"| One row | {cells} |"
    (missing,) = [line for line in lines if line.startswith("| other")]
    assert "not measured" in missing
    assert missing.count("|") == row.count("|")


def test_relative_to_the_teacher_and_to_a_student_with_the_real_data(suite):
    (plan,) = read_suite(suite)
    real = {"name": "real_data", "loss": "labels"}
    plan.record(plan.rows[0], 0).write_text(record(0.8))
    plan.record(plan.rows[1], 0).write_text(record(0.9, method=real))
    assert "| relative, % |" in table(plan)  # labels are not what the method's student had
    plan.record(plan.rows[1], 0).write_text(record(0.9, method=real | {"loss": "kd"}))
    text = table(plan)
    assert "| of the teacher's / of real data's, % |" in text
    assert "| One row | 10 |  | 80.0 | 80.8 / 88.9 |" in text
    assert "| other | 10 |  | 90.0 | 90.9 / 100.0 |" in text


def test_students_of_several_sizes_are_all_named(suite):
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.8))
    larger = {"name": "shared_classifier", "params": 12_345, "accuracy": 0.8, "accuracy_last": 0.8}
    plan.record(plan.rows[1], 0).write_text(record(0.8, student=larger))
    text = table(plan)
    assert "student s, 10 parameters or shared_classifier, 12,345 parameters. Scored" in text
    assert "| other | 12,345 |" in text


def test_rows_of_several_machines_say_so(suite):
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.8))
    plan.record(plan.rows[0], 1).write_text(record(0.8))
    other = {"cpu": "c", "threads": 1, "torch": "2", "gpu": None}
    plan.record(plan.rows[1], 0).write_text(record(0.9, precision="bf16", machine=other))
    text = table(plan)
    assert (
        "Scored on digits; delivered weights: rule. c, 2 threads, torch 2, float32; c, 1 thread, torch 2, bf16." in text
    )
    assert "| 3 TFLOP | 12 s | 2 |" in text
    assert "| 3 TFLOP | 12 s, bf16 | 1 |" in text
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
    assert "| One row | 10 |  | 30.0 | 75.0 | 20.0 | 50.0 |" in text
    assert "100 parameters, 40.00%" in text


def test_the_page_of_results_says_what_is_on_it_and_choosing_settings_comes_last(suite):
    (plan,) = read_suite(suite)
    plan.record(plan.rows[0], 0).write_text(record(0.5))
    content = yaml.safe_load(suite.read_text())
    for name, key in (("later", "here"), ("a-trials", "there")):
        other = {"tables": {key: {**content, "title": f"Of {name}", "note": "One paragraph.\nAnother."}}}
        suite.with_name(f"{name}.yaml").write_text(yaml.safe_dump(other))
        write_tables(read_suite(suite.with_name(f"{name}.yaml")))
    write_tables([plan])
    page = (plan.root / "RESULTS.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("- ")] == [
        "- [Of later](#bench-later-here) (not measured)",
        "- [A title](#bench-small)",
        "- [Of a-trials](#bench-a-trials-there) (not measured)",
    ]
    places = [page.index(f'<a id="{name}">') for name in ("bench-later-here", "bench-small", "bench-a-trials-there")]
    assert places == sorted(places)
    trials = read_suite(suite.with_name("a-trials.yaml"))[0]
    trials.record(trials.rows[0], 0).parent.mkdir(parents=True, exist_ok=True)
    trials.record(trials.rows[0], 0).write_text(record(0.5))
    assert "One paragraph.\n\nAnother." in table(trials)


@pytest.mark.slow
def test_runs_what_is_missing_and_fills_the_readme(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "teacher.safetensors", tiny_network((4, 6), 0, num_classes=10))
    recipe = {
        "teacher_checkpoint": "teacher.safetensors", "student": "convnet", "student_args": {"widths": [2, 3]},
        "steps": 3, "data": "digits", "onnx": False, "method": {"name": "noise", "batch_size": 8},
    }  # fmt: skip
    (tmp_path / "recipes" / "a.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "README.md").write_text("before\n<!-- bench:small -->\nold\n<!-- /bench -->\nafter\n")
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
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n<!-- bench:small -->\n### A title")
    assert readme.endswith("<!-- /bench -->\nafter\n")
    assert "old" not in readme
    assert "In short." in readme
    assert "A note." not in readme
    assert "A note." in (tmp_path / "RESULTS.md").read_text()
    assert "## A title" in (tmp_path / "RESULTS.md").read_text()
    # What is missing, two at a time.
    api.bench("small", jobs=2, quiet=True)
    assert all(plan.record(row, seed).exists() for row in plan.rows for seed in (0, 1))
    plan.record(plan.rows[0], 1).unlink()
    plan.record(plan.rows[1], 1).unlink()
    (tmp_path / "teacher.safetensors").unlink()
    for run in (tmp_path / "runs" / "bench" / "small").iterdir():
        shutil.rmtree(run)
    with pytest.raises(InputError, match=r"2 of 2 runs failed.*One row, seed 1: .*does not exist"):
        api.bench("small", jobs=2, quiet=True)


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
    (tmp_path / "README.md").write_text("<!-- bench:small:b -->\n<!-- /bench -->\n")
    text = api.bench("small", quiet=True)
    assert text.index("### A title") < text.index("80.0 ± 0.0") < text.index("### Another") < text.index("60.0")
    readme = (tmp_path / "README.md").read_text()
    assert "### Another" in readme
    assert "### A title" not in readme
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
    assert "| other | 10 |  | 70.0 |" in table(plan)


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
        "### A title\n\nNot measured yet: One row, other.\n\n`dreamstill bench small --data-root DIR`\n"
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
def test_the_tables_that_come_with_it_are_of_the_records_that_do(path):
    plans = read_suite(path)
    assert path.with_suffix(".md").read_text() == "\n".join(table(plan) for plan in plans)
    readme, results = ((ROOT / name).read_text() for name in ("README.md", "RESULTS.md"))
    for plan in plans:
        assert table(plan).replace("### ", "## ", 1) in results
        if f"<!-- bench:{plan.mark} -->" in readme:
            assert table(plan, plan.short or plan.note) in readme


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
