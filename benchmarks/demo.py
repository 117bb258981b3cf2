"""Run the demo over seeds, teacher and student both; keep the records; print mean and spread.

Every seed trains its own teacher, so the spread is that of the whole job.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from dreamstill import api
from dreamstill.engine.launch import settle_process
from dreamstill.files import write_json

RECORDS = Path(__file__).parent / "records" / "demo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    settle_process()
    found = []
    for seed in options.seeds:
        out = Path("runs") / "bench" / "demo" / f"seed{seed}"
        summary = api.demo(out=str(out), seed=seed, quiet=True)
        manifest = json.loads((out / "manifest.json").read_text())
        kept = {k: v for k, v in summary.items() if k not in ("confusion", "classes")}
        write_json(RECORDS / f"seed{seed}.json", {"commit": manifest["commit"], "summary": kept})
        found.append(summary)
        accuracy = [summary[side]["accuracy"] for side in ("teacher", "student")]
        print(f"seed {seed}: teacher {accuracy[0]:.2%}, student {accuracy[1]:.2%}, {summary['wall_seconds']:.0f} s")
    for side in ("teacher", "student"):
        values = [100 * s[side]["accuracy"] for s in found]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{side}: {statistics.mean(values):.2f} ± {spread:.2f} % over {len(values)} seeds")


if __name__ == "__main__":
    main()
