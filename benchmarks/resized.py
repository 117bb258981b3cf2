"""MNIST's digits enlarged to 32x32, as DFAD's released code takes them, where this project pads them.

``python benchmarks/resized.py DATA`` writes ``runs/data/mnist32/{train,test}-00000-of-00001.parquet`` (half a minute).
"""

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dreamstill.data.load import load_images


def main(root: str) -> None:
    out = Path("runs/data/mnist32")
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        digits = load_images("mnist", split, root=root)
        assert digits.labels is not None
        encoded = []
        for i, pixels in enumerate(digits.pixels[:, 0].numpy()):
            buffer = io.BytesIO()
            # Pillow's bilinear filter, which torchvision's Resize takes for pictures.
            Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR).save(buffer, "PNG")
            encoded.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
        images = pa.array(encoded, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        table = pa.table({"image": images, "label": pa.array(digits.labels.tolist(), pa.int64())})
        features = {"label": {"names": list(digits.classes), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, out / f"{split}-00000-of-00001.parquet")
        print(f"{out}: {len(digits)} digits of {split}")


if __name__ == "__main__":
    main(sys.argv[1])
