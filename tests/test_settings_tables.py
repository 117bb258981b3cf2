"""The tables of settings in the documentation are those of the methods."""

import runpy
from pathlib import Path

import pytest

from dreamstill import methods

DOCS = Path(__file__).parents[1] / "docs"
TABLES = runpy.run_path(str(DOCS / "settings_tables.py"))
PAGES = sorted((DOCS / "methods").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_current(page):
    text = page.read_text()
    assert TABLES["filled"](text) == text, "run make settings-tables"


def test_every_method_has_a_table():
    found = [name for page in PAGES for _, name, _ in TABLES["MARKED"].findall(page.read_text())]
    assert sorted(found) == sorted(methods.names())


def test_a_table_says_name_default_range_and_meaning():
    rows = TABLES["table"]("ddad").splitlines()
    assert (
        "| `alpha` | 1 | at least 0 or auto | Weight of L_BN, the mean over the layers (inferred). 0 is DFAD. "
        in rows[2]
    )
    assert "| `weight_decay` | 0.0005 | at least 0 |" in TABLES["table"]("noise")
    old = "a\n<!-- settings: noise -->\n| stale |\n<!-- end of settings -->\nb\n"
    assert TABLES["filled"](old) == old.replace("| stale |\n", TABLES["table"]("noise"))
