"""The direction of each claim of `docs/worth.md`, by its own script in small."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import in_a_fork

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CLAIMS = sorted(path.stem for path in (BENCHMARKS / "worth").glob("*.py") if "def small(" in path.read_text())


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_holds_in_small(claim: str) -> None:
    done = in_a_fork(_small, claim)
    assert done.returncode == 0, done.stderr


def _small(claim: str) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    importlib.import_module(f"worth.{claim}").small()


def test_every_claim_is_tried() -> None:
    assert {"context", "duplication", "induction", "language", "lengths", "limits", "recall"} <= set(CLAIMS)


def test_labels_are_what_can_be_known() -> None:
    done = in_a_fork(_known)
    assert done.returncode == 0, done.stderr


def _known() -> None:
    import numpy as np

    sys.path.insert(0, str(BENCHMARKS))
    induction, recall = (importlib.import_module(f"worth.{name}") for name in ("induction", "recall"))
    rng = np.random.default_rng(0)
    tokens, labels = induction.token(rng, 64, 256)
    assert (labels >= 0).sum(1).tolist() == [1] * 64
    for row in tokens.tolist():
        assert row[-2] == 0
        assert row[-1] == row[row.index(0) + 1]
    tokens, labels = induction.pieces(rng, 4, 512)
    asked = (labels >= 0).nonzero().tolist()
    assert len(asked) > 300
    for row, at in asked:
        text = tokens[row].tolist()
        assert text[at] == labels[row, at]
        assert any(text[i : i + 4] == text[at - 3 : at + 1] for i in range(at - 3))
    tokens, labels = recall.examples(rng, 4, 512, 64)
    assert (labels >= 0).sum(1).tolist() == [64] * 4
    for row, at in (labels >= 0).nonzero().tolist():
        text = tokens[row].tolist()
        assert text[text.index(text[at - 1], 0, 128) + 1] == labels[row, at]


def test_the_page_shows_what_was_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worth.tables"], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    tables = done.stdout.strip().split("\n\n")
    page = (BENCHMARKS.parent / "docs" / "worth.md").read_text()
    assert len(tables) > 1
    assert [table for table in tables if table not in page] == []
    assert sum(line.startswith("| ---") for line in page.splitlines()) == len(tables)


def test_what_was_measured_is_drawn(tmp_path: Path) -> None:
    done = in_a_fork(_draw, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.iterdir()} >= {"worth_duplication", "worth_language"}


def _draw(folder: Path) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    plots = importlib.import_module("worth.plots")
    for claim in plots.DRAWN:
        plots.draw(claim, folder)
