"""Write the tables of settings into docs/methods/*.md, from the methods themselves: ``make settings-tables``.

A table stands between ``<!-- settings: NAME -->`` and ``<!-- end of settings -->``, and is not to be edited there.
"""

import re
from pathlib import Path

from dreamstill import methods
from dreamstill.commands.methods import of_paper, settings_of

PAGES = Path(__file__).parent / "methods"
MARKED = re.compile(r"(<!-- settings: (\w+) -->\n).*?(<!-- end of settings -->)", re.S)


def table(name: str) -> str:
    """The settings of a method as Markdown."""
    rows = [("setting", "default", "range", "meaning, and where the default comes from"), ("---",) * 4]
    for s in settings_of(methods.get(name)):
        rows.append((f"`{s.name}`", s.default, s.range, s.meaning.replace("``", "`").replace("|", r"\|")))
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    preset = of_paper(methods.get(name)).replace("--preset paper", "`--preset paper`")
    return text if methods.get(name).control else f"{text}\n{preset}\n"


def filled(text: str) -> str:
    """A page with all of its tables as they should be."""
    return MARKED.sub(lambda found: found[1] + table(found[2]) + found[3], text)


if __name__ == "__main__":
    for page in sorted(PAGES.glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
