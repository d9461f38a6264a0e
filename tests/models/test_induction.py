"""LSH layers look up what followed the same context before, from the first steps of training, at any distance.

In small what `benchmarks/induction.py` measures.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def tasks() -> Any:
    sys.path.append(str(BENCHMARKS))  # for what the script imports
    spec = importlib.util.spec_from_file_location("induction_tasks", BENCHMARKS / "induction.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCHMARKS))
    return module


@pytest.mark.slow
def test_pieces_that_recur_are_known_within_a_hundred_steps(tasks: Any) -> None:
    found = {}
    for successor_values in (True, False):
        torch.manual_seed(0)
        model = tasks.make(tasks.SYMBOLS, window=32, successor_values=successor_values)
        tasks.train(model, tasks.induction, 8, 256, 60, seed=0)
        found[successor_values], _ = tasks.accuracy(model, tasks.induction, 8, 256, 2_000)
    assert found[True] > 0.85
    assert found[False] < 0.1


def test_labels_are_what_can_be_known(tasks: Any) -> None:
    rng = np.random.default_rng(0)
    tokens, labels = tasks.induction(rng, 4, 256)
    known = labels >= 0
    assert 0.2 < known.float().mean() < 0.5
    assert torch.equal(tokens[known], labels[known])
    for row, at in known.nonzero()[:200].tolist():
        text, wanted = tokens[row].tolist(), tokens[row, at - 2 : at + 1].tolist()
        assert any(text[i : i + 3] == wanted for i in range(at - 2))
    tokens, labels = tasks.recall(rng, 1, 2048)
    asked = (labels[0] >= 0).nonzero()[:, 0]
    keys = tokens[0, asked - 1].tolist()
    assert len(set(keys)) == len(keys) > 300
    distances = []
    for at, key in zip(asked.tolist(), keys, strict=True):
        first = tokens[0].tolist().index(key)
        assert first % 2 == 0
        assert tokens[0, first + 1] == labels[0, at] == tokens[0, at]
        distances.append(at - 1 - first)
    assert min(distances) < 10
    assert max(distances) > 1000
