"""The profile: whose operation is it, does it add up, does the page come out."""

import json
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from helpers.networks import dense_network, make_given, tiny_network
from torch.utils.flop_counter import FlopCounterMode

from dreamstill import api, cli
from dreamstill.commands.profiling import command, growth, peaks
from dreamstill.commands.profiling.command import take_apart, whole_run
from dreamstill.commands.profiling.faster import TOLERANCE, faster_parts, sentence
from dreamstill.commands.profiling.growth import measure_growth
from dreamstill.commands.profiling.page import write_profile
from dreamstill.commands.profiling.parts import floors_of, record, summarise
from dreamstill.commands.profiling.peaks import alone, best, matmul_speed
from dreamstill.commands.profiling.recipes import (
    given_of,
    hardware_of,
    read_recipe,
    with_fresh_weights,
    with_noise,
    with_options,
)
from dreamstill.commands.profiling.record import Recorder
from dreamstill.commands.profiling.show import show
from dreamstill.commands.profiling.steps import iterate, prepared
from dreamstill.engine import Hardware, hardware
from dreamstill.errors import InputError
from dreamstill.methods.ddad import DDAD
from dreamstill.networks import builtin
from dreamstill.networks.load import save_network
from dreamstill.networks.network import Network
from dreamstill.runs.machine import machine
from dreamstill.runs.settings import ProfileSettings, build_method

SMALL = {
    "name": "ddad",
    "batch_size": 16,
    "nz": 8,
    "width": 4,
    "student_steps": 2,
    "replay": 0.5,
    "bank": 64,
    "crop": 1,
}
SOFT = {"name": "soft_target", "n_images": 32, "synthesis_batch": 32, "iterations": 1000, "batch_size": 16, "crop": 1}
SOFT |= {"sigma": 20.0}


CPU = Hardware("cpu", "32", False)
NOW = [0.0]  # the reading of a clock that only this file moves


@pytest.fixture
def tick(monkeypatch):
    """A clock that moves by a millisecond each time it is read, so that every operation takes as long."""

    def read():
        NOW[0] += 1e-3
        return NOW[0]

    monkeypatch.setattr(time, "perf_counter", read)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    """As many runs of a point of growth as quartiles need: how steady its times are is not what is tested."""
    for name in ("ROUNDS", "MORE_ROUNDS"):
        monkeypatch.setitem(measure_growth.__globals__, name, 2)


@pytest.fixture
def known_peaks(monkeypatch):
    """A machine whose peaks need not be measured."""
    names = ("conv_float32", "conv_bfloat16", "matmul_float32", "matmul_bfloat16", "copy_bytes")
    monkeypatch.setitem(take_apart.__globals__, "machine_peaks", lambda _: dict.fromkeys(names, 1e10))


def set_up(channels=1):
    method = DDAD(**{k: v for k, v in SMALL.items() if k != "name"})
    return method, prepared(
        method,
        make_given(tiny_network((6, 8), 0, channels=channels), tiny_network((3, 4), 1, channels=channels)),
        CPU,
    )


def test_every_operation_has_an_owner():
    method, engine = set_up()
    iterate(engine, method, 2)
    ops = record(engine, method)
    found = {(op.step, op.part) for op in ops if op.flops}
    forward = {("student step", "teacher forward"), ("student step", "student forward")}
    assert found == {
        *forward, ("student step", "student backward"), ("image making", "generator forward"),
        *(("generator step", f"{n} {d}") for n in ("generator", "teacher", "student") for d in ("forward", "backward")),
    }  # fmt: skip
    others = {op.part for op in ops if not op.flops}
    assert {"batch-norm statistics", "optimiser", "bank", "augmentation", "losses and the rest"} <= others


def test_operations_add_up():
    method, engine = set_up(channels=3)  # of grey images the way back is another one, with more operations
    iterate(engine, method, 2)
    ops = record(engine, method)
    with FlopCounterMode(display=False) as counter:
        iterate(engine, method, 1, 7)
    assert sum(op.flops for op in ops) == counter.get_total_flops()
    matrix = alone(ops, engine.device)
    assert all((f > 0) == (op.flops > 0) for op, f in zip(ops, matrix, strict=True))
    floors = floors_of(ops, matrix, bandwidth=1e9)
    assert sum(floors) == pytest.approx(sum(matrix) + sum(op.normalising for op in ops) / 1e9)
    parts = summarise(ops, floors)
    assert sum(p["flops"] for p in parts) == counter.get_total_flops()
    assert sum(p["operations"] for p in parts) == len(ops)
    assert sum(p["floor_seconds"] for p in parts) == pytest.approx(sum(floors))
    # Frozen networks get no weight gradients: twice a forward pass at most, less for the first layer.
    teacher = {p["part"]: p["flops"] for p in parts if p["step"] == "generator step" and "teacher" in p["part"]}
    assert teacher["teacher backward"] <= teacher["teacher forward"]


def test_what_batch_norm_has_to_move():
    method, engine = set_up(channels=3)
    iterate(engine, method, 2)
    moved = {}
    for op in record(engine, method):
        moved.setdefault((op.step, op.part), []).append(op.normalising)
    maps = [16 * c * side * side * 4 for c, side in ((3, 8), (4, 4))]  # what the student's two batch norms receive
    assert [m for m in moved["generator step", "student forward"] if m] == [3 * b for b in maps]
    assert [m for m in moved["generator step", "student backward"] if m] == [5 * b for b in reversed(maps)]
    assert not any(moved["generator step", "teacher forward"])  # it is frozen: scale and shift, no more
    assert sorted(m for m in moved["generator step", "batch-norm statistics"] if m) == [
        16 * 8 * 4 * 4 * 4, 16 * 6 * 8 * 8 * 4
    ]  # fmt: skip


def test_what_is_moved():
    """Views, and memory that is only taken, move nothing; what is filled or copied over is not read."""
    x, row = torch.ones(8, 4), torch.ones(4)  # 128 and 16 bytes
    rows = torch.tensor([5, 1])  # 16 bytes
    recorder = Recorder({}, torch.device("cpu"))
    cases = [
        (lambda: x.view(4, 8), 0),
        (lambda: x.detach(), 0),
        (lambda: x.T, 0),
        (lambda: x[2:4], 0),
        (lambda: torch.as_strided(x, (2, 2), (1, 1)), 0),
        (lambda: row.expand(8, 4), 0),
        (lambda: torch.ops.aten._unsafe_view(x, [32]), 0),
        (lambda: torch.empty(100), 0),
        (lambda: torch.empty_like(x), 0),
        (lambda: x.new_empty(7), 0),
        (lambda: torch.zeros(8, 4), 128),
        (lambda: torch.zeros_like(x), 128),
        (lambda: x.fill_(1.0), 128),
        (lambda: x.copy_(torch.ops.aten.expand(row, [8, 4])), 128 + 16),
        (lambda: x + x, 3 * 128),
        (lambda: x.add_(row), 2 * 128 + 16),
        (lambda: x.clone(), 2 * 128),
        (lambda: x.sum(), 128 + 4),
        (lambda: x[rows], 16 + 2 * 32),
        (lambda: torch.nn.functional.embedding(rows, x), 16 + 2 * 32),
    ]  # fmt: skip
    for i, (run, expected) in enumerate(cases):
        before = len(recorder.ops)
        with recorder:
            run()
        assert sum(op.bytes for op in recorder.ops[before:]) == expected, i


def test_the_best_time_leaves_the_first_run_out(monkeypatch):
    """By a clock on which the first run is the shortest."""
    now, calls, seconds = [0.0], [], iter([1.0, 5.0, 3.0, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def run():
        calls.append(1)
        now[0] += next(seconds)

    assert best(run, torch.device("cpu"), rounds=3) == 3.0
    assert len(calls) == 4


@pytest.mark.parametrize(("speed", "sides"), [(1e12, [256, 256, 2048, 2048, 2048, 2048]), (3e8, [256, 256])])
def test_a_machine_that_multiplies_slowly_is_not_given_large_matrices(speed, sides, monkeypatch):
    """As a CPU without bf16 of its own does: four products of 2048x2048 took it ten minutes."""
    now, asked = [0.0], []

    def mm(a, b):
        asked.append(len(a))
        now[0] += 2 * len(a) ** 3 / speed

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert matmul_speed(torch.bfloat16, torch.device("cpu")) == pytest.approx(speed)
    assert asked == sides


@pytest.mark.slow
def test_growth_follows_the_operations(tick):
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1), torch.zeros(64, 1, 8, 8, dtype=torch.uint8))
    found = measure_growth(SMALL, given, CPU)
    values = {axis: [p["value"] for p in grown["phases"]["distil"]] for axis, grown in found.items()}
    assert values == {"batch": [8, 16, 32], "image side": [4, 8, 16], "classes": [10, 100, 1000]}
    assert found["batch"]["changes"] == ["batch_size"]
    batch = found["batch"]["phases"]["distil"]
    assert batch[2]["flops"] == pytest.approx(2 * batch[1]["flops"])
    assert all(p["seconds"] > 0 for grown in found.values() for p in grown["phases"]["distil"])


def nameless():
    """A network that cannot be built again by its name, for growth along batch alone."""
    network = tiny_network((6, 8), 0)
    network.name = ""
    return network


def test_the_batch_that_a_phase_uses_grows(tick):
    """Of soft targets the first phase makes images, in batches of its own."""
    given = with_noise(nameless(), tiny_network((3, 4), 1), 64)
    batch = measure_growth(SOFT, given, CPU)["batch"]
    assert batch["changes"] == ["batch_size", "synthesis_batch"]
    for points in batch["phases"].values():
        assert [p["value"] for p in points] == [8, 16, 32]
        assert points[2]["flops"] == pytest.approx(4 * points[0]["flops"])
    assert batch["phases"].keys() == {"synthesise", "distil"}


def at(value, *parts):
    """A point of growth with parts ``(name, seconds, flops, bytes)``."""
    return {
        "value": value,
        "parts": [{"step": "s", "part": n, "seconds": t, "flops": f, "bytes": b} for n, t, f, b in parts],
    }


def test_a_part_that_outgrows_its_operations_is_named():
    def points(*, square=2.0, noise=0.0):
        return [
            at(
                n,
                ("linear", [n, n * (1 + noise)], 10 * n, n),
                ("square", [n**square, n**square * (1 + noise)], 10 * n, n**2),
                ("moves", [n**2, 1.1 * n**2], 0.0, n**2),  # no FLOPs: its bytes count
                ("tiny", [1e-9 * n**3, 1e-9 * n**3], n, n),  # nobody waits for it
                ("overhead", [5.0, 5.0], n, n),
            )
            for n in (8, 16, 32)
        ]

    (found,) = faster_parts(points())
    assert (found["part"], found["from"], found["to"], found["of"]) == ("square", 8, 32, "flops")
    assert (found["time"], found["work"]) == (pytest.approx(16), pytest.approx(4))
    assert sentence(found) == "16 times the time for 4 times the operations, from 8 to 32"
    # Within the tolerance, or no more than its runs differ.
    assert 4**0.1 < TOLERANCE < 4**0.2
    assert faster_parts(points(square=1.1)) == []
    assert faster_parts(points(square=1.3, noise=1.0)) == []


def test_what_calls_cost_hides_nothing():
    """A part that is all overhead at first and square later."""
    (found,) = faster_parts([at(n, ("late", [1000.0 + n**2] * 3, n, n)) for n in (1, 100, 200)])
    assert (found["from"], found["to"]) == (100, 200)


@torch.library.custom_op("dreamstill_tests::wait", mutates_args=())
def wait(x: torch.Tensor) -> torch.Tensor:
    """An operation of square time that reads and writes no more than a linear one."""
    NOW[0] += 0.1 * len(x) ** 2
    return x.clone()


@pytest.mark.slow
def test_a_step_of_square_time_is_found(monkeypatch, capsys, tmp_path, tick, known_peaks):
    step = DDAD.step

    def slow(self, engine):
        step(self, engine)
        with torch.profiler.record_function("waiting"):
            wait(torch.zeros(self.batch_size, 2))

    monkeypatch.setattr(DDAD, "step", slow)
    batch = measure_growth(SMALL, with_noise(nameless(), tiny_network((3, 4), 1), 64), CPU)["batch"]
    (found,) = [f for f in batch["faster"] if f["part"] == "waiting"]
    assert (found["phase"], found["of"]) == ("distil", "bytes")
    assert found["time"] > 1.25 * found["work"]
    method, given = build_method(SMALL), with_noise(tiny_network((6, 8), 0), tiny_network((3, 4), 1), 64)
    apart = take_apart(method, given, CPU, 100)
    about = {
        "recipe": "a",
        "precision": "32",
        "machine": machine(),
        "notes": ["a note"],
        "growth": {"batch": batch},
    }
    batch["left_out"] = [{"value": 99, "why": "too large"}]
    about |= {"teacher": {"name": "t"}, "student": {"name": "s"}, "method": SMALL}
    profile = {**apart, "run": whole_run(apart["phases"], 100), **about}
    show(profile, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "growth with batch (batch_size): these outgrow their operations by more than 25 %" in said
    assert "waiting: " in said
    assert "growth with batch: 99 left out, too large" in said
    page = write_profile(tmp_path, profile).read_text()
    assert "waiting" in page.split('id="growth"')[1]
    assert "a note" in page
    assert "batch 99 is left out: too large." in page


@pytest.mark.slow
def test_networks_named_by_depth_and_width_grow_too(tick):
    """``wrn_10_1`` is in no list of names; what can be built by its name is."""
    networks = []
    for width in (2, 1):
        module = builtin.build(f"wrn_10_{width}", num_classes=4, channels=1, image_size=8)
        networks.append(Network(module, num_classes=4, image_size=8, channels=1, name=f"wrn_10_{width}"))
    found = measure_growth({"name": "noise", "batch_size": 16}, with_noise(*networks, 64), CPU)
    assert found.keys() == {"batch", "image side", "classes"}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["labels", "kd"])
def test_dense_networks_and_labels_grow_too(loss, tick):
    """Labels follow the images' sides and the classes, whoever learns from them."""
    method = {"name": "real_data", "loss": loss, "batch_size": 8}
    found = measure_growth(method, with_noise(dense_network(6, 0), dense_network(3, 1), 32), CPU, 20)
    assert {axis: len(grown["phases"]["train"]) for axis, grown in found.items()} == {
        "batch": 2, "image side": 2, "classes": 3
    }  # fmt: skip


@pytest.mark.slow
def test_growth_leaves_out_what_a_method_cannot_do(tick):
    method = {"name": "hidfd", "gan_batch": 16, "batch_size": 16, "width": 2, "nz": 8, "bank": 64}
    given = with_noise(tiny_network((6, 8), 0), tiny_network((3, 4), 1), 64)
    sides = measure_growth(method, given, CPU, 50)["image side"]
    assert {phase: [p["value"] for p in points] for phase, points in sides["phases"].items()} == {
        "gan": [8, 16], "synthesise": [8, 16], "distil": [8, 16]
    }  # fmt: skip
    assert [(p["value"], "4x4" in p["why"]) for p in sides["left_out"]] == [(4, True)]


def test_every_phase_is_taken_apart(capsys, tmp_path, known_peaks):
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    method = build_method(SOFT)
    found = take_apart(method, given, CPU, 300)
    assert [(p["name"], p["iterations"]) for p in found["phases"]] == [("synthesise", 1000), ("distil", 300)]
    steps = {(p["phase"], p["step"]) for p in found["parts"] if p["flops"]}
    assert steps == {("synthesise", "images step"), ("distil", "student step")}
    for phase in found["phases"]:
        mine = [p for p in found["parts"] if p["phase"] == phase["name"]]
        assert phase["flops"] == sum(p["flops"] for p in mine) > 0
        assert phase["floor_seconds"] == pytest.approx(sum(p["floor_seconds"] for p in mine))
    run = whole_run(found["phases"], 300)
    made, learnt = found["phases"]
    assert run["seconds"] == pytest.approx(1000 * made["iteration_seconds"] + 300 * learnt["iteration_seconds"])
    assert run["floor_seconds"] == pytest.approx(1000 * made["floor_seconds"] + 300 * learnt["floor_seconds"])
    show({"recipe": "soft", "run": run, "notes": [], "growth": {}, **found}, tmp_path)
    said = capsys.readouterr().out
    assert said.count("floor ms") == 2
    assert "phase synthesise" in said
    assert "a run of 300 student steps (1000 synthesise, 300 distil)" in " ".join(said.split())


def recipe_file(folder, **changes):
    """A recipe with a tiny teacher beside it."""
    save_network(folder / "teacher.safetensors", tiny_network((6, 8), 0))
    recipe = {"teacher_checkpoint": str(folder / "teacher.safetensors"), "student": "convnet", "method": SMALL}
    (folder / "a.yaml").write_text(yaml.safe_dump({**recipe, **changes}))
    return folder / "a.yaml"


@pytest.mark.parametrize(
    ("said", "asked", "expected"),
    [
        ({"precision": "bf16", "compile": "on", "device": "cpu"}, {}, Hardware("cpu", "bf16", True)),
        ({"precision": "bf16", "compile": "on"}, {"precision": "32", "compile": "off", "device": "cpu"},
         CPU),
        ({"precision": "32"}, {"device": "cpu"}, CPU),
    ],
)  # fmt: skip
def test_the_recipe_says_what_it_runs_on(said, asked, expected, tmp_path):
    recipe = read_recipe(recipe_file(tmp_path, **said))
    method, given = build_method(recipe.settings.method), given_of(recipe)
    assert hardware_of(ProfileSettings(recipe="", **asked), recipe, method, given) == expected


def test_words_that_yaml_takes_for_something_else(tmp_path):
    path = recipe_file(tmp_path)
    path.write_text(path.read_text() + "precision: 32\ncompile: on\n")
    recipe = read_recipe(path)
    assert (recipe.settings.precision, recipe.settings.compile) == ("32", "on")


def test_auto_weighs_the_work_of_the_whole_run(tmp_path, monkeypatch):
    """Bf16 is for runs of some size: a profile has to choose what the run would."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(hardware, "_bf16_speedup", lambda: 8.0)
    chosen = {}
    for steps in (10, 100_000_000):
        recipe = read_recipe(recipe_file(tmp_path, steps=steps, compile="auto"))
        method, given = build_method(recipe.settings.method), given_of(recipe)
        chosen[steps] = hardware_of(ProfileSettings(recipe="", device="cpu"), recipe, method, given)
    assert chosen == {10: CPU, 100_000_000: Hardware("cpu", "bf16", True)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- 1\n- 2\n", "holds a list"),
        (b"\xff\xfe\x00\x01", "is not a text"),
        (b"\x89PNG\r\n\x1a\n\x00", "is not a text"),
        (b"a\x00b", "is not a text"),
        (b"a: [1\nb: 2\n", "is not YAML in line 2"),
        (b"1: 2\nteacher_checkpint: x\n", "has 1, teacher_checkpint, which"),
        (None, "cannot be read"),
    ],
)
def test_recipes_that_are_none(content, said, tmp_path):
    if content is not None:
        (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_recipe(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_the_folder_is_checked_first(tmp_path):
    """Before anything is measured, and before the recipe's networks are built."""
    (tmp_path / "file").write_text("")
    for out in ("file", "file/deeper"):
        with pytest.raises(InputError, match="is a file: name a folder"):
            api.profile("none.yaml", out=str(tmp_path / out))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "profile.json").write_text("{}")
    with pytest.raises(InputError, match="holds a profile already"):
        api.profile("none.yaml", out=str(tmp_path / "old"))


def test_without_the_teachers_weights(tmp_path):
    """They do not matter for speed; which network it is then has to be said."""
    recipe = read_recipe(recipe_file(tmp_path, teacher_checkpoint="runs/teachers/later"))
    options = ProfileSettings(recipe="")
    with pytest.raises(InputError, match="--teacher wrn_40_2 --num-classes 10 --image-size 32"):
        with_fresh_weights(with_options(recipe, options))
    options = replace(options, teacher="convnet", num_classes=4)
    with pytest.raises(InputError, match=r"as with --image-size 32$"):
        with_fresh_weights(with_options(recipe, options))
    recipe, notes = with_fresh_weights(with_options(recipe, replace(options, image_size=8, channels=1)))
    assert [("fresh weights" in n, "runs/teachers/later" in n) for n in notes] == [(True, True)]
    teacher = given_of(recipe).teacher.description()
    assert {k: teacher[k] for k in ("name", "num_classes", "image_size", "channels")} == {
        "name": "convnet", "num_classes": 4, "image_size": [8, 8], "channels": 1
    }  # fmt: skip
    # One that is there is used, and nothing has to be said.
    there = read_recipe(recipe_file(tmp_path))
    assert with_fresh_weights(there) == (there, [])


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    # The compiler's own code takes a minute to make, and is no part of what is looked at here.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    # Nor are the times, so each is taken twice, and the products are small ones.
    for module, name in ((command, "ROUNDS"), (growth, "ROUNDS"), (growth, "MORE_ROUNDS"), (peaks, "ROUNDS")):
        monkeypatch.setattr(module, name, 2)
    monkeypatch.setattr(peaks, "LONGEST", 0.0)
    words = ["profile", str(recipe_file(tmp_path)), "--out", str(tmp_path / "out"), "--device", "cpu", "--json"]
    assert cli.main([*words, "--precision", "32", "--compile", "on"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "out" / "profile.json").read_text())
    (phase,) = said["phases"]
    assert phase["flops"] == pytest.approx(sum(p["flops"] for p in said["parts"]))
    assert phase["compiled"]["iteration_seconds"] > 0
    assert said["run"]["compiled_seconds"] == phase["iterations"] * phase["compiled"]["iteration_seconds"]
    assert {"conv_float32", "conv_bfloat16", "matmul_float32", "matmul_bfloat16", "copy_bytes"} == set(said["peaks"])
    page = (tmp_path / "out" / "profile.html").read_text()
    assert all(word in page for word in ("Roofline", "Growth", "teacher backward", "batch-norm statistics"))
    assert "http" not in page.replace("http://www.w3.org", "")
    # A second one into the same folder, and recipes that are none.
    assert cli.main(words) == 2
    (tmp_path / "b.yaml").write_text("teacher_checkpint: x\n")
    assert cli.main(["profile", str(tmp_path / "b.yaml")]) == 2
    assert "teacher_checkpint" in capsys.readouterr().err
    assert cli.main(["profile", str(tmp_path / "none.yaml")]) == 2
