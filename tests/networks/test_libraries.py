"""Networks of other libraries by name, and what they record of their images."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dreamstill.errors import InputError
from dreamstill.networks.libraries import is_library
from dreamstill.networks.load import resolve, save_network

SMALL = {"num_classes": 4, "image_size": 32, "channels": 1, "mean": [0.3], "std": [0.4]}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_which_names_are_a_librarys():
    assert all(map(is_library, ("timm:resnet18", "torchvision:resnet18", "hf:org/model", "hf:./folder")))
    assert not any(
        map(is_library, ("timm:create_model", "timm.models:resnet18", "mine:Net", "resnet18", "timm:", None))
    )


def test_a_timm_teacher_with_a_checkpoint_knows_its_images(tmp_path):
    timm = pytest.importorskip("timm")
    net = timm.create_model("test_resnet", num_classes=7)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    cfg = net.pretrained_cfg
    network = resolve("timm:test_resnet", tmp_path / "net.pt", num_classes=7)
    assert network.description()["mean"] == pytest.approx(list(cfg["mean"]))
    assert network.description()["std"] == pytest.approx(list(cfg["std"]))
    assert network.image_size == tuple(cfg["input_size"][1:])
    assert network.num_classes == 7
    (note,) = network.notes
    assert note.startswith("timm:test_resnet: taken over from pretrained_cfg: mean [")
    own = resolve("timm:test_resnet", tmp_path / "net.pt", num_classes=7, image_size=64, mean=[0.5] * 3, std=[0.1] * 3)
    assert own.image_size == (64, 64)
    assert own.description()["mean"] == [0.5] * 3
    assert "mean" not in " ".join(own.notes)


def test_a_timm_student_has_the_teachers_classes_and_channels_and_is_built_again(tmp_path):
    pytest.importorskip("timm")
    network = resolve("timm:test_resnet", None, role="student", **SMALL).eval()
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 4)
    save_network(tmp_path / "student.safetensors", network)
    again = resolve(None, tmp_path / "student.safetensors", role="network").eval()
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(again(images), network(images))


def test_a_torchvision_teacher_with_a_checkpoint_knows_its_images(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.squeezenet1_1(num_classes=5)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    network = resolve("torchvision:squeezenet1_1", tmp_path / "net.pt", num_classes=5)
    about = network.description()
    assert (about["mean"], about["std"]) == IMAGENET
    assert network.image_size == (224, 224)
    assert "the transforms of SqueezeNet1_1_Weights" in network.notes[0]


def test_names_that_need_the_network_say_so(monkeypatch):
    timm = pytest.importorskip("timm")
    models = pytest.importorskip("torchvision").models

    def unreachable(*_args, **_kwargs):
        raise ConnectionError("Max retries exceeded with url: /resnet")

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(models, "get_model", unreachable)
    for name in ("timm:test_resnet.r160_in1k", "torchvision:resnet18"):
        with pytest.raises(InputError, match=f"{name} has to download its files.*--teacher-checkpoint"):
            resolve(name, None)


@pytest.mark.parametrize(("name", "words"), [
    ("timm:resnet18_of_mine", r"timm:resnet18_of_mine .*check its name|has no weights"),
    ("torchvision:resnet19", r"torchvision:resnet19 cannot be built .*check its name"),
])  # fmt: skip
def test_names_that_are_none(name, words):
    pytest.importorskip(name.partition(":")[0])
    with pytest.raises(InputError, match=words):
        resolve(name, None)


@pytest.mark.parametrize(
    ("library", "install"),
    [("timm", r"dreamstill\[models\]"), ("torchvision", "dreamstill"), ("transformers", "transf")],
)
def test_a_library_that_is_missing_is_named(monkeypatch, library, install):
    monkeypatch.setitem(sys.modules, library, None)
    name = {"transformers": "hf"}.get(library, library) + ":some/model"
    with pytest.raises(InputError, match=f"needs {library} .*pip install '?{install}"):
        resolve(name, None)


# ---------------------------------------------------------------- Hugging Face, by a stand-in with its interface


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.num_channels * config.image_size**2, config.num_labels)

    def forward(self, x):
        return SimpleNamespace(logits=self.linear(x.flatten(1)))


def config_of(name):
    record = {"num_channels": 3, "num_labels": 2, **json.loads((name / "config.json").read_text())}
    labels = {int(k): v for k, v in record.pop("id2label", {}).items()}
    config = SimpleNamespace(**record)
    config.id2label = labels or {i: f"LABEL_{i}" for i in range(config.num_labels)}
    return config


@pytest.fixture
def hugging_face(monkeypatch, tmp_path):
    from pathlib import Path

    class Auto:
        @staticmethod
        def from_pretrained(name):
            torch.manual_seed(0)
            return Model(config_of(Path(name)))

        @staticmethod
        def from_config(config):
            config.id2label = {i: f"LABEL_{i}" for i in range(config.num_labels)}
            return Model(config)

    class AutoConfig:
        @staticmethod
        def from_pretrained(name):
            return config_of(Path(name))

    stand_in = SimpleNamespace(AutoModelForImageClassification=Auto, AutoConfig=AutoConfig)
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    (tmp_path / "config.json").write_text(
        json.dumps({"image_size": 8, "num_labels": 3, "id2label": {"0": "ant", "1": "bee", "2": "cat"}})
    )
    return tmp_path


@pytest.mark.parametrize(
    ("record", "mean", "std", "size"),
    [
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "size": {"height": 12, "width": 10}},
         [0.5, 0.4, 0.3], [0.2, 0.2, 0.1], (12, 10)),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 12}, "crop_size": 8},
         [0.5] * 3, [0.5] * 3, (8, 8)),
        ({"do_normalize": False}, [0.0] * 3, [1.0] * 3, (8, 8)),
        ({"image_mean": [127.5] * 3, "image_std": [51.0] * 3, "do_rescale": False}, [0.5] * 3, [0.2] * 3, (8, 8)),
        ({"image_mean": [0.0] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5, "rescale_offset": True},
         [0.5] * 3, [0.25] * 3, (8, 8)),
    ],
)  # fmt: skip
def test_a_hugging_face_folder_knows_its_images_and_classes(hugging_face, record, mean, std, size):
    (hugging_face / "preprocessor_config.json").write_text(json.dumps(record))
    network = resolve(f"hf:{hugging_face}", None)
    assert network.description()["mean"] == pytest.approx(mean)
    assert network.description()["std"] == pytest.approx(std)
    assert network.image_size == size
    assert network.classes == ("ant", "bee", "cat")
    assert network.num_classes == 3
    assert "class names (ant, bee, cat, ...)" in network.notes[0]


def test_a_hugging_face_folder_without_its_preprocessing_asks_for_mean_and_std(hugging_face):
    with pytest.raises(InputError, match="the teacher needs --mean, --std"):
        resolve(f"hf:{hugging_face}", None)


def test_a_hugging_face_student_has_the_teachers_classes(hugging_face):
    network = resolve(f"hf:{hugging_face}", None, role="student", **{**SMALL, "image_size": 6})
    assert network(torch.rand(2, 1, 6, 6)).shape == (2, 4)
    assert network.classes is None
