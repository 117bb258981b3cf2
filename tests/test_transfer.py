"""A transfer set on the disk: written whole or not at all, and read again as it was."""

import io
import json

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dreamstill import data, transfer
from dreamstill.errors import InputError


def batches(n=25, size=10, channels=3, k=4):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, channels, 6, 8), dtype=torch.uint8, generator=generator)
    logits = torch.randn(n, k, generator=generator)
    return pixels, logits, zip(pixels.split(size), logits.split(size), strict=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_read_again_as_a_labelled_set(channels, tmp_path):
    pixels, logits, pieces = batches(channels=channels)
    path = tmp_path / "made" / "train.parquet"
    assert transfer.write_parquet(path, pieces, ["a", "b", "c", "d"], {"seed": 3}) == 25
    for source in (path, path.parent):
        found = data.load(str(source), "train")
        assert torch.equal(found.pixels, pixels)
        assert torch.equal(found.labels, logits.argmax(1))
        assert found.classes == ("a", "b", "c", "d")
    table = pq.read_table(path)
    assert torch.equal(torch.tensor(table["logits"].to_pylist()), logits)
    assert json.loads(table.schema.metadata[b"dreamstill"]) == {"seed": 3}
    assert pq.ParquetFile(path).num_row_groups == 3
    row = table["image"][11].as_py()
    assert row["path"] == "000011.png"
    assert Image.open(io.BytesIO(row["bytes"])).size == (8, 6)
    assert [p.name for p in path.parent.iterdir()] == ["train.parquet"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "set.parquet"
    path.write_bytes(b"old")
    pixels, logits, _ = batches()

    def failing():
        yield pixels, logits
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        transfer.write_parquet(path, failing(), ["a"] * 4)
    with pytest.raises(InputError, match="no image to write"):
        transfer.write_parquet(path, iter(()), ["a"] * 4)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["set.parquet"]


@pytest.mark.parametrize("image", [torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4)])
def test_what_png_cannot_hold(image):
    with pytest.raises(InputError, match=r"write \.safetensors"):
        transfer.png(image)
