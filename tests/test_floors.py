import ast
import subprocess
import sys
from pathlib import Path

import pytest

import reformer

ROOT = Path(reformer.__file__).parent
FLOORS = ["ops", "settings", "layers", "models", "data", "presets", "training", "interop", "report", "keras", "cli"]
SAME_FLOOR = [{"interop", "report", "keras"}, {"data", "presets"}]
SOURCES = sorted(ROOT.rglob("*.py"))


def imported(source: Path) -> set[str]:
    """First names below `reformer` that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reformer":
            names |= {node.module.split(".")[1]} if "." in node.module else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("reformer.")}
    return names & set(FLOORS)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(source: Path) -> None:
    parts = source.relative_to(ROOT).parts
    if parts[0] in ("__init__.py", "__main__.py"):
        return
    own = parts[0].removesuffix(".py")
    assert own in FLOORS, f"{own} stands on no floor"
    for other in imported(source) - {own}:
        assert FLOORS.index(other) < FLOORS.index(own), f"{source} imports {other}, which is not below {own}"
        assert not any({own, other} <= same for same in SAME_FLOOR), f"{own} and {other} are on one floor"


def test_the_check_sees_an_import_that_goes_up(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text("from reformer.models.config import ReformerConfig\nimport reformer.cli.main\n")
    assert imported(source) == {"models", "cli"}


def test_import_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, reformer; "
        "from reformer import __version__, settings, presets; "
        "from reformer.cli import convert, evaluate, generate, main, train; "
        "assert 'lsh_attention' in dir(reformer); "
        "loaded = {'torch', 'transformers'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_load_on_first_use() -> None:
    for name in reformer.__all__:
        assert getattr(reformer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = reformer.nonsense
