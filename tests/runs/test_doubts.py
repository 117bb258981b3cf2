"""What distill says before a run of a teacher that looks wrong, and keeps in summary and report."""

import json
import sys

import pytest
import torch
from helpers.images import digits_folder
from helpers.networks import tiny_network
from helpers.runs import FIXED, SMALL
from torch import nn

import dreamstill
from dreamstill.data.image_set import ImageSet
from dreamstill.errors import InputError
from dreamstill.runs.doubts import doubts

FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}


def run(teacher, out, student=None, **changes):
    settings = {"method": SMALL, "steps": 4, "out": str(out), "onnx": False, **FIXED, **changes}
    return dreamstill.distill(teacher, student or tiny_network((3, 4), 1), **settings)


def grey_claim():
    """A teacher whose batch norm remembers bright images, under a claim that makes them invisible."""
    network = tiny_network((6, 8), 0)
    network.std.fill_(1 / 255)
    return network


def labelled(network, change):
    pixels = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = network(pixels / 255).argmax(1)
    return ImageSet(pixels, change(answers), ("a", "b", "c", "d"), "made", "test")


def spread_network():
    """A teacher whose answers are of all four classes."""
    network = tiny_network((6, 8), 0)
    torch.manual_seed(0)
    network.module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))
    return network


def test_a_plausible_teacher_that_scores_well_leaves_no_doubt():
    network = spread_network()
    assert doubts(network, labelled(network, lambda y: y)) == []


def test_mean_and_std_batch_norms_and_the_order_of_labels_are_doubted():
    assert any("mean and std are implausible" in text for text in doubts(grey_claim()))
    fresh = tiny_network((6, 8), 0)
    for module in fresh.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    assert any("of a fresh network. Were its weights loaded?" in text for text in doubts(fresh))
    network = spread_network()
    assert "labels in another order" in doubts(network, labelled(network, lambda y: (y + 1) % 4))[0]
    noise = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(1))
    assert "where chance is 25.00%" in " ".join(doubts(network, labelled(network, lambda y: noise)))


def test_a_doubt_is_printed_and_stands_in_summary_and_report(tmp_path, capsys):
    run(grey_claim(), tmp_path / "run", data=digits_folder(tmp_path / "set"))
    said = capsys.readouterr().out
    assert "warning: the teacher's mean and std are implausible" in said
    notes = json.loads((tmp_path / "run/summary.json").read_text())["notes"]
    assert "mean and std are implausible" in notes[0]
    page = (tmp_path / "run/report.html").read_text()
    assert "The teacher&#39;s mean and std are implausible" in page
    assert "<th" in page


@pytest.mark.parametrize("missing", ["mean", "std", "num_classes", "image_size"])
def test_in_python_a_bare_module_needs_every_fact(tmp_path, missing):
    facts = {key: value for key, value in FACTS.items() if key != missing}
    with pytest.raises(InputError, match=f"{missing} is missing: a bare nn.Module does not say it, so give {missing}="):
        run(tiny_network((6, 8), 0).module, tmp_path / "run", **facts)
    assert not (tmp_path / "run").exists()


class Odd(nn.Module):
    """Flattens by view, keeps its features, learns its shapes from the first images, and returns a map of one pixel."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.head = nn.LazyConv2d(5, 3), nn.BatchNorm2d(5), nn.LazyConv2d(4, 1)

    def forward(self, x):
        self.features = self.norm(self.convolution(x)).relu()
        return self.head(self.features.view(len(x), -1, 1, 1))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_odd_networks_on_both_sides_go_through_to_the_report_and_evaluate(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    teacher, student = Odd(), Odd()
    teacher(torch.rand(50, 1, 8, 8))
    nn.utils.weight_norm(teacher.convolution)
    run(teacher, tmp_path / "run", student, data=digits_folder(tmp_path / "set"), **FACTS)
    assert (tmp_path / "run/report.html").exists()
    with pytest.raises(
        InputError, match=r"weights of a Odd that was given in Python.*module= to load_student.*--student"
    ):
        dreamstill.evaluate(str(tmp_path / "run"), data=str(tmp_path / "set"))
    again = dreamstill.load_student(str(tmp_path / "run"), Odd())
    by_module = dreamstill.evaluate(str(tmp_path / "run"), data=str(tmp_path / "set"), student=Odd())
    assert 0 <= by_module["accuracy"] <= 1
    assert again(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    monkeypatch.setitem(sys.modules, "odd_networks", sys.modules[__name__])
    by_name = dreamstill.evaluate(str(tmp_path / "run"), data=str(tmp_path / "set"), student="odd_networks:Odd")
    assert by_name["accuracy"] == by_module["accuracy"]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_teacher_in_python(tmp_path):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    teacher = torch.jit.trace(plain.eval(), torch.rand(2, 1, 8, 8))
    run(teacher, tmp_path / "run", method={**SMALL, "alpha": 0}, **FACTS)
    assert (tmp_path / "run/report.html").exists()


def test_batch_norms_that_never_run_are_not_there(tmp_path):
    class Bypassed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.BatchNorm2d(1), nn.Linear(64, 4)
            self.taps, self.classifier = nn.ModuleList(), "linear or so"

        def forward(self, x):
            n = self.norm
            x = nn.functional.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias)
            return self.linear(x.flatten(1))

    with pytest.raises(InputError, match=r"running statistics .this teacher has norm and never runs them"):
        run(Bypassed(), tmp_path / "run", **FACTS)
    run(Bypassed(), tmp_path / "run", method={**SMALL, "alpha": 0}, **FACTS)
