"""metrics.csv is true at any moment, also after a resume."""

import re
import time

import pytest

from dreamstill.errors import InputError
from dreamstill.runs.metrics_log import Tracker, read_metrics


def test_values_of_one_step_make_one_row(tmp_path):
    tracker = Tracker(tmp_path, 10, "run", quiet=True)
    tracker.log(2, {"student/kl": 0.5, "seconds": 1.0})
    tracker.log(2, {"eval/accuracy": 0.25})
    tracker.log(4, {"student/kl": 0.125})
    tracker.close()
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,student/kl,seconds,eval/accuracy",
        "2,0.5,1.0,0.25",
        "4,0.125,,",
    ]
    assert read_metrics(tmp_path / "metrics.csv") == {
        2: {"student/kl": 0.5, "seconds": 1.0, "eval/accuracy": 0.25},
        4: {"student/kl": 0.125},
    }


def test_cut_back_to_the_checkpoint_and_taken_up_again(tmp_path):
    first = Tracker(tmp_path, 10, "run", quiet=True)
    for step in (1, 2, 3):
        first.log(step, {"loss": float(step)})
    first.close()
    second = Tracker(tmp_path, 10, "run", quiet=True)
    second.cut(2)
    assert read_metrics(tmp_path / "metrics.csv").keys() == {1, 2}
    second.log(3, {"loss": 30.0})
    second.close()
    assert read_metrics(tmp_path / "metrics.csv")[3] == {"loss": 30.0}


def test_tensorboard_has_the_same_values(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(tmp_path, 10, "run", quiet=True)
    tracker.log(5, {"loss": 0.75})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(5, 0.75)]


def test_without_a_terminal_it_says_a_line_every_tenth(tmp_path, capsys):
    tracker = Tracker(tmp_path, 100, "a to b")
    for step in range(1, 101):
        if step == 15:
            tracker.log(step, {"eval/accuracy": 0.812})
        tracker.progress(step, {"student/kl": 0.5, "lr/student": 0.1})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"a to b: 10 of 100, 0\.\d s left  student/kl 0\.5", lines[0])
    assert re.fullmatch(r"a to b: 20 of 100, 0\.\d s left, accuracy 81\.2%  student/kl 0\.5", lines[1])
    assert lines[-1] == "a to b: 100 of 100, accuracy 81.2%  student/kl 0.5"


def test_slow_iterations_are_said_every_minute(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tracker = Tracker(tmp_path, 1000, "a to b")
    for step in range(1, 10):
        now[0] += 45.0
        tracker.progress(step, {})
    assert capsys.readouterr().out.splitlines()[0] == "a to b: 2 of 1000, 12 h 28 min left  "


def test_without_a_folder_nothing_is_written_or_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(None, 10, "other rank")
    tracker.log(1, {"loss": 1.0})
    tracker.progress(10, {})
    tracker.cut(0)
    tracker.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["step,a\n1,x\n", "a\n1\n", "step,a\nx,1\n", "step,a\n1,2,3\n", "step\n\0\n"])
def test_a_damaged_file_is_one_sentence(text, tmp_path):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match=r"metrics.csv cannot be read"):
        read_metrics(tmp_path / "metrics.csv")


def test_a_folder_that_was_removed_does_not_come_back(tmp_path):
    tracker = Tracker(tmp_path / "run", 10, "run", quiet=True)
    with pytest.raises(InputError, match="was removed while the run went on"):
        tracker.log(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()
