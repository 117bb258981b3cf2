"""The rules of the house that a machine can check."""

import ast
import re
from pathlib import Path

import pytest

from dreamstill.errors import InputError
from dreamstill.methods import get, names

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "dreamstill").rglob("*.py"))
HARDWARE = re.compile(r"autocast|torch\.compile\(|\.cuda\(\)|all_reduce|torch\.distributed|lightning|manual_seed_all")


def name(path):
    return str(path.relative_to(ROOT / "src" / "dreamstill"))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_the_engine_knows_the_hardware(path):
    if path.parent.name == "engine":
        return
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # docstrings may speak of it
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    found = HARDWARE.findall(ast.unparse(tree))
    assert not [
        f for f in found if not (name(path) == "runs/manifest.py" and f == "lightning")
    ]  # it records the version


FILE_LINES, FUNCTION_LINES = 300, 50
# Longer files. The list may only shrink: no file may be added, and no number raised.
LONG_FILES: dict[str, int] = {}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONG_FILES.get(name(path), FILE_LINES), "split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node) or ""
            body = node.end_lineno - node.body[0].lineno + 1 - len(doc.splitlines())
            assert body <= FUNCTION_LINES, f"{node.name} has {body} lines"


def test_no_file_is_allowed_more_lines_than_it_has():
    lines = {name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {file: lines.get(file) for file in LONG_FILES} == LONG_FILES, "lower the number, or take the file off"


def test_a_method_reads_like_its_papers_box():
    for path in sorted((ROOT / "src" / "dreamstill" / "methods").glob("[a-z]*.py")):
        assert len(path.read_text().splitlines()) <= 220, f"{path.name}: what is shared or sideline goes to parts"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "setup":
                assert node.end_lineno - node.lineno + 1 <= 30, path.name


@pytest.mark.parametrize("folder", ["methods", "methods/controls"])
def test_no_method_knows_another(folder):
    paths = sorted((ROOT / "src" / "dreamstill" / folder).glob("[a-z]*.py"))
    assert paths
    for path in paths:
        imports = [n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        own = rf"dreamstill\.methods\.(?!parts\b|released\.{path.stem}$)"
        assert not [m for m in imports if re.match(own, m or "")], path.name


def test_a_released_variant_knows_only_its_own_method():
    for path in sorted((ROOT / "src" / "dreamstill" / "methods" / "released").glob("[a-z]*.py")):
        imports = [n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        own = rf"dreamstill\.methods\.(?!parts\b|{path.stem}$)"
        assert not [m for m in imports if re.match(own, m or "")], path.name


@pytest.mark.parametrize("name", ["controls", "parts", "released"])
def test_what_methods_share_is_no_method(name):
    assert name not in names()
    with pytest.raises(InputError, match=f"no method '{name}'"):
        get(name)


def test_the_malicious_releases_of_lightning_are_excluded():
    locked = re.findall(r"^(?:pytorch-)?lightning==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked
    assert not {"2.6.2", "2.6.3"} & set(locked)
    assert "!=2.6.2,!=2.6.3" in (ROOT / "pyproject.toml").read_text()


ORDER = [
    "errors", "messages", "extras", "ranges", "files", "networks", "losses", "data", "tasks", "engine", "methods",
    "runs", "report", "commands",
]  # fmt: skip


def module_of(path):
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree, modules):
    """The modules of ours that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else node.module for name in named}
    return found & modules


MODULES = {module_of(path): path for path in SOURCES}
IMPORTS = {m: imported(ast.parse(path.read_text()), set(MODULES)) - {m} for m, path in MODULES.items()}


def rank(module):
    """A floor; the face (api, cli and the package itself) is on top."""
    parts = module.split(".")
    return len(ORDER) if len(parts) == 1 or parts[1] in ("api", "cli", "__main__") else ORDER.index(parts[1])


def test_imports_go_downwards():
    upward = [(m, t) for m, targets in IMPORTS.items() for t in targets if rank(t) > rank(m)]
    assert not upward
    assert {rank(m) for m in MODULES} == set(range(len(ORDER) + 1))  # no floor is empty, and none is forgotten


def test_no_two_files_import_each_other():
    left = {m: set(targets) for m, targets in IMPORTS.items()}
    while free := {m for m, targets in left.items() if not targets & set(left)}:
        left = {m: targets for m, targets in left.items() if m not in free}
    assert not left, f"a circle among {sorted(left)}"
