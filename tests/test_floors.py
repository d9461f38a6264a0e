import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import reformer

ROOT = Path(reformer.__file__).parent
FLOORS = [
    "version",
    "errors",
    "ops",
    "settings",
    "layers",
    "models",
    "data",
    "training",
    "inference",
    "tasks",
    "interop",
    "report",
    "keras",
    "front",
    "cli",
]
SAME_FLOOR = [{"training", "inference"}, {"interop", "report", "keras"}]


def name_of(source: Path) -> str:
    """The module of a file, below the package."""
    return ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(source): source for source in sorted(ROOT.rglob("*.py"))}
"""All but `__init__`, the package's front, which stands above the floors."""
del MODULES["__init__"], MODULES["__main__"]


def imported(source: Path) -> set[str]:
    """Modules below `reformer` that a file imports, wherever in it; the front is the empty name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reformer":
            home = node.module.removeprefix("reformer").removeprefix(".")
            inside = {f"{home}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= (inside & MODULES.keys()) or {home}
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("reformer.") for alias in node.names if alias.name.startswith("reformer.")
            }
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    own = module.split(".")[0]
    assert own in FLOORS, f"{own} stands on no floor"
    for name in imported(MODULES[module]):
        other = name.split(".")[0]
        assert other in FLOORS, f"{module} imports the front of the package, which is above all floors"
        assert FLOORS.index(other) <= FLOORS.index(own), f"{module} imports {name}, which is above {own}"
        assert other == own or not any({own, other} <= same for same in SAME_FLOOR), f"{own}, {other}: one floor"


def test_no_imports_go_round() -> None:
    """Those within functions count too."""
    TopologicalSorter({name: imported(source) & MODULES.keys() for name, source in MODULES.items()}).prepare()


def test_the_check_sees_an_import_that_goes_up_and_one_that_goes_round(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text("from reformer.models.config import ReformerConfig\nimport reformer.cli.main\n")
    assert imported(source) == {"models.config", "cli.main"}
    source.write_text("from reformer.ops import ranks\n\ndef f():\n    from reformer import __version__\n")
    assert imported(source) == {"ops.ranks", ""}
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_import_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, reformer; "
        "from reformer import __version__, settings; "
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
