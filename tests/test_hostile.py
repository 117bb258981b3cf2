"""Files from strangers: each is one sentence, in bounded time and memory, and nothing in it is executed."""

import copy
import json
import struct
import time
import zipfile
import zlib

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers.images import noise, parquet
from helpers.networks import tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from dreamstill import cli
from dreamstill.data.load import load_images
from dreamstill.data.transfer_set import read_parquet, write_set
from dreamstill.errors import DreamstillError, InputError
from dreamstill.networks.load import load_network, resolve, save_network
from dreamstill.networks.network import Network
from dreamstill.networks.output_check import check_output
from dreamstill.networks.state_dicts import apply_state, fingerprint, load_state
from dreamstill.runs.config_file import read_run, read_settings
from dreamstill.runs.manifest import read_manifest

NETWORK = tiny_network((6, 8), 0)
STATE = NETWORK.module.state_dict()
FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": [0.3], "std": [0.4]}


@pytest.fixture(autouse=True)
def in_bounded_time():
    began = time.process_time()
    yield
    assert time.process_time() - began < 20


def cast(to):
    return {k: to(v) if v.is_floating_point() else v for k, v in STATE.items()}


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda v: torch.complex(v, v), "complex64 in the file and float32"),
        (lambda v: v.to(torch.int8), "int8 in the file and float32"),
        (lambda v: v > 0, "bool in the file and float32"),
    ],
)
def test_what_would_be_cast_without_a_word_is_refused(make, said):
    with pytest.raises(InputError, match=rf"blocks.0.0.weight is {said} in the network"):
        apply_state(copy.deepcopy(NETWORK.module), cast(make), "t.pt")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_types_are_taken_and_counters_that_went_with_them(dtype):
    apply_state(copy.deepcopy(NETWORK.module), {k: v.to(dtype) for k, v in STATE.items()}, "t.pt")


def held_by_itself():
    nest = {}
    nest["state_dict"] = nest
    return nest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: cast(lambda v: v.to_sparse()), "layout torch.sparse_coo"),
        (lambda: cast(lambda v: v.to("meta")), "device meta"),
        (lambda: cast(lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)), "a quantised tensor"),
        (held_by_itself, "more than 10 deep"),
        (lambda: {("x",): torch.ones(1)}, "holds the keys a tuple"),
        (lambda: {"x" * 10**6: 3}, "not a state_dict"),
    ],
)
def test_checkpoints_that_hold_no_ordinary_tensors(content, said, tmp_path):
    torch.save(content(), tmp_path / "t.pt")
    with pytest.raises(InputError, match=said) as error:
        load_state(tmp_path / "t.pt")
    assert len(str(error.value)) < 600


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(InputError, match="would unpack to 50,000,000 bytes"):
        load_state(tmp_path / "t.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["blocks.0.0.weight", "blocks.0.1.running_var"])
def test_weights_and_statistics_that_are_not_finite_are_named(key, value):
    broken = copy.deepcopy(NETWORK)
    broken.module.state_dict()[key].view(-1)[0] = value
    with pytest.raises(InputError, match=f"NaN or infinite values in {key}"):
        check_output(broken)


@pytest.mark.parametrize("facts", [{"mean": [float("nan")]}, {"std": [float("inf")]}, {"std": [float("nan")]}])
def test_a_mean_and_a_deviation_are_finite(facts):
    with pytest.raises(InputError, match="must be finite"):
        Network(NETWORK.module, **{**FACTS, **facts})


def test_the_doctor_leaves_with_an_error_when_there_is_a_problem(tmp_path, capsys):
    broken = copy.deepcopy(NETWORK)
    broken.module.state_dict()["blocks.0.0.weight"].fill_(float("nan"))
    save_network(tmp_path / "t.safetensors", broken)
    assert cli.main(["doctor", str(tmp_path / "t.safetensors"), "--json"]) == 2
    assert "NaN or infinite values in blocks.0.0.weight" in json.loads(capsys.readouterr().out)["problems"][0]


# ---------------------------------------------------------------- descriptions and delivered weights

BAD = {
    "num_classes": ["4", 4.0, True, 1, [4], 10**9], "channels": ["1", 0, 1.5, 10**8],
    "image_size": ["8", [8], 8.5, 0, {"a": 1}, [8, [8]], 10**7], "mean": ["abc", [None], [float("nan")], 0.3, {"a": 1}],
    "std": [[float("inf")], [0.0], ["0.4"], [-1]], "name": [5, ["convnet"], {"a": 1}],
    "kwargs": [[1], "abc", {"widths": "x"}, {"widths": [10**9, 1]}, {"evil": 1}],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_a_description_of_other_types_is_one_sentence(key, value, tmp_path):
    description = {"schema": 1, **NETWORK.description(), key: value}
    save_file(STATE, tmp_path / "t.safetensors", metadata={"dreamstill": json.dumps(description)})
    with pytest.raises(InputError):
        resolve(None, tmp_path / "t.safetensors")


def test_descriptions_that_are_no_json(tmp_path):
    for text in ("{", "[1]", "[" * 100_000, "3"):
        save_file(STATE, tmp_path / "t.safetensors", metadata={"dreamstill": text})
        with pytest.raises(InputError, match="corrupt or cut short"):
            load_state(tmp_path / "t.safetensors")


@settings(max_examples=150)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_delivered_weights_is_refused_or_changes_nothing(tmp_path_factory, at, bit):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "flipped.safetensors"
    save_network(path, NETWORK)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        network = load_network(path)
    except InputError:
        return
    assert fingerprint(network.module) == fingerprint(NETWORK.module)
    assert network.description() == NETWORK.description()


@settings(max_examples=60)
@given(header=st.binary(max_size=200), length=st.integers(0, 2**64 - 1) | st.integers(0, 300))
def test_any_header_of_a_weights_file(tmp_path_factory, header, length):
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header)
    with pytest.raises(InputError):
        load_network(path)


@settings(max_examples=60)
@given(cut=st.integers(0, 3000), junk=st.binary(max_size=20))
def test_any_damage_to_a_saved_state(tmp_path_factory, cut, junk):
    path = tmp_path_factory.getbasetemp() / "cut.pt"
    torch.save(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[:cut] + junk + content[cut + len(junk) :][: max(0, 2000 - cut)])
    try:
        load_state(path)
    except InputError as error:
        assert len(str(error)) < 1000  # noqa: PT017


# ---------------------------------------------------------------- settings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def bomb(indent=""):
    lines = ["a0: &a0 [lol, lol, lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "".join(f"{indent}{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "more than 20,000 values"),
        ("teacher_args:\n" + bomb("  "), "more than 20,000 values"),
        ("m0: &m0 {x: 1}\n" + "".join(f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}'] * 9)}]\n" for i in range(1, 25)),
         "more than"),
        ("method: &a\n  name: ddad\n  x: *a\n", "a holds itself"),
        ("&a\nmethod: *a\n", "a holds itself"),
        ("teacher_args: " + "[" * 20_000 + "]" * 20_000, "more than 50 deep"),
        ("teacher_args: " + "{a: " * 500 + "1" + "}" * 500, "more than 50 deep"),
        ("".join(" " * i + "a:\n" for i in range(1000)), "more than 50 deep"),
        ("steps: " + "9" * 10_000, "cannot be read"),
        ("seed: 2001-99-99\n", "cannot be read"),
        ("teacher: " + "x" * 5_000_000, "more than 1,000,000 bytes"),
        ('out: "\\ud800"\n', "invalid Unicode"),
        ("x: *nobody\n", "not YAML"),
        ("- 1\n", "no settings"),
    ],
)  # fmt: skip
def test_recipes_that_are_bombs(text, said, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(text)
    assert cli.main(["distill", "--config", str(tmp_path / "r.yaml"), "--dry-run"]) == 2
    assert said in (error := capsys.readouterr().err)
    assert len(error.splitlines()) == 1


def test_aliases_in_moderation_are_read(tmp_path):
    (tmp_path / "r.yaml").write_text("a: &a {x: [1, 2]}\nb: {<<: *a, y: *a}\n")
    assert read_settings(tmp_path / "r.yaml", "the recipe", "") == {
        "a": {"x": [1, 2]}, "b": {"x": [1, 2], "y": {"x": [1, 2]}}
    }  # fmt: skip


@settings(max_examples=60)
@given(text=st.text(max_size=60) | st.text("&*a:[]{}<>-?! \n'\"#|%@`~0123", max_size=60))
def test_any_text_as_settings(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(read_settings(path, "the recipe", "hint"), dict)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017


@settings(max_examples=40)
@given(content=JSON)
def test_any_manifest_and_configuration(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(yaml.safe_dump({"teacher": "convnet", "steps": content}))
    with pytest.raises(InputError):
        read_manifest(folder)
    read_run(folder / "config.yaml")


# ---------------------------------------------------------------- images


def scored(folder, metadata=None, change=None, arrays=None):
    path = folder / "t.parquet"
    parquet(path, arrays or [noise(8, 8, seed=i) for i in range(40)], [i % 4 for i in range(40)], list("abcd"))
    if metadata is not None:
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    if change is not None:
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)
    return load_images(str(path), channels=1)


@pytest.mark.parametrize(
    "record",
    ["{", "[1]", '{"info": 3}', '{"info": {"features": [1]}}', '{"info": {"features": {"label": "x"}}}', b"\xff\xfe",
     '{"info": {"features": {"label": {"names": 5}}}}', '{"info": {"features": {"label": {"names": "abcd"}}}}',
     '{"info": {"features": {"label": {"names": [[1], {}, null, "d"]}}}}', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_record_of_names_is_one_sentence(record, tmp_path):
    with pytest.raises(InputError, match="damaged huggingface record"):
        scored(tmp_path, {"huggingface": record})


@settings(max_examples=40)
@given(at=st.integers(0, 6000), run=st.integers(1, 40))
def test_any_damage_to_a_parquet_file(tmp_path_factory, at, run):
    def change(content):
        for i in range(at, at + run):
            content[i % len(content)] ^= 0x5A

    try:
        assert len(scored(tmp_path_factory.getbasetemp(), change=change)) <= 40
    except InputError:
        pass


def png_bomb(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def test_a_picture_of_very_many_pixels_is_not_unpacked(tmp_path):
    with pytest.raises(InputError, match=r"1 images of .* cannot be read"):
        scored(tmp_path, arrays=[png_bomb(50_000), *(noise(8, 8) for _ in range(39))])


def test_a_transfer_set_with_a_flipped_bit_is_refused_or_the_same(tmp_path):
    path = tmp_path / "t.parquet"
    about = {"run": "r", "seed": 0, "method": {}, "outside": [], "teacher_sha256": fingerprint(NETWORK.module)}
    pixels = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_set(path, [pixels], NETWORK, list("abcd"), about)
    whole, content = read_parquet(path, NETWORK), path.read_bytes()
    draw, refused = torch.Generator().manual_seed(1), 0
    for _ in range(60):
        at = int(torch.randint(8 * len(content), (1,), generator=draw))
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            read = read_parquet(path, NETWORK)
        except DreamstillError:
            refused += 1
            continue
        assert torch.equal(read.pixels, whole.pixels)
        assert torch.equal(read.logits, whole.logits)
    assert refused > 20


def test_weights_of_an_earlier_version_have_no_sum_and_are_taken(tmp_path):
    save_network(tmp_path / "new.safetensors", NETWORK)
    state = load_file(tmp_path / "new.safetensors")
    text = json.dumps({"schema": 1, **NETWORK.description()})
    (tmp_path / "old.safetensors").write_bytes(save(state, metadata={"format": "pt", "dreamstill": text}))
    assert fingerprint(load_network(tmp_path / "old.safetensors").module) == fingerprint(NETWORK.module)
