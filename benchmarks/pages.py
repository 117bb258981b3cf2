"""Make every table in README.md, RESULTS.md and docs/ again from the records: ``python benchmarks/pages.py``.

Nothing is run. For after a merge, when two branches brought records.
"""

from pathlib import Path

from dreamstill.commands.bench.suite import read_suite
from dreamstill.commands.bench.summaries import write_tables

if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        write_tables(read_suite(path))
