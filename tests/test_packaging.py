"""What the package says of itself: what it needs is declared, and what is built from it works."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

OF_FRONTS = {"keras": "keras", "lm_eval": "lm-eval", "peft": "lora", "tensorboard": "tensorboard"}
OF_FRONTS |= dict.fromkeys(("prometheus_client", "starlette", "uvicorn"), "serve")
"""What extras bring."""

OF_BRIDGES = {"reformer_pytorch", "axial_positional_embedding", "triton"}
"""What is there if somebody has the other library, or a GPU's PyTorch, which brings triton."""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[;! ]", each)[0].lower().replace("_", "-") for each in requirements}


def imported() -> set[str]:
    """Top-level modules that the package imports, wherever in a file."""
    found: set[str] = set()
    for source in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
    return found - set(sys.stdlib_module_names) - {"reformer"}


def test_what_is_imported_is_declared() -> None:
    declared, homes = names(PROJECT["dependencies"]), packages_distributions()
    for module in sorted(imported() - OF_BRIDGES):
        if module in OF_FRONTS:
            assert names(PROJECT["optional-dependencies"][OF_FRONTS[module]])
            continue
        own = {name.lower().replace("_", "-") for name in homes[module]}
        assert own & declared, f"{module} is imported, and no dependency is {' or '.join(own)}"


def test_what_is_declared_is_imported() -> None:
    homes = packages_distributions()
    used = {name.lower().replace("_", "-") for module in imported() for name in homes.get(module, ())}
    of_the_trainer = {"accelerate"}  # transformers' Trainer asks for it
    assert names(PROJECT["dependencies"]) <= used | of_the_trainer


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.mark.slow
def test_the_wheel_works_and_the_source_distribution_holds_its_tests(built: Path, tmp_path: Path) -> None:
    """The wheel beside the libraries that are installed here, and the tests that the source distribution brings."""
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*pip, str(wheel)], check=True)
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("reformer_torch-*")
    environment = {**os.environ, "PYTHONPATH": str(installed), "REFORMER_BACKEND": "plain"}  # nothing to compile
    where = [sys.executable, "-c", "import reformer; print(reformer.__file__)"]
    shown = subprocess.run(where, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert Path(shown.stdout.strip()).is_relative_to(installed)
    few = ["tests/settings", "tests/ops/test_spec.py", "tests/ops/test_sequences.py", "tests/data/test_corpus.py"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *few]
    done = subprocess.run(command, env=environment, cwd=unpacked, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    train = "reformer train README.md --out run --steps 1 --length 64 --hidden-size 32 --num-hidden-layers 2"
    subprocess.run([sys.executable, "-m", *train.split()], env=environment, cwd=unpacked, check=True)
    wanted = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True)
    missing = [name for name in wanted.stdout.split() if not name.startswith(".") and not (unpacked / name).exists()]
    assert not missing
