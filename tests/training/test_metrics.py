"""Metrics against other implementations and against values worked out by hand."""

import numpy as np
import pytest

from reformer.inference.metrics import (
    accuracy,
    exact_match,
    f1_by_class,
    has_spans,
    spans_f1,
    translation_scores,
    words_f1,
)
from reformer.tasks.qa import LONGEST, best_span


def test_f1_of_classes() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    found, there = (random.choice(list("abcd"), 200).tolist() for _ in range(2))
    assert accuracy(found, there) == pytest.approx(metrics.accuracy_score(there, found))
    wanted = metrics.f1_score(there, found, average=None, labels=list("abcd"))
    assert [one.value for one in f1_by_class(found, there).values()] == pytest.approx(wanted.tolist())


def test_f1_of_spans() -> None:
    there = [["B-A", "I-A", "O", "B-B", "B-B", "I-A"]]  # A 0-2, B 3-4, B 4-5, A 5-6
    found = [["B-A", "O", "O", "I-B", "B-B", "I-B"]]  # A 0-1, B 3-4, B 4-6
    score = spans_f1(found, there)
    assert (score.right, score.found, score.there) == (1, 3, 4)
    assert score.precision == pytest.approx(1 / 3)
    assert score.recall == pytest.approx(1 / 4)
    assert score.value == pytest.approx(2 / 7)
    assert spans_f1(there, there).value == 1
    assert spans_f1([["O"]], [["O"]]).value == 0
    assert has_spans(["O", "B-A"])
    assert not has_spans(["noun", "verb"])


def test_answers() -> None:
    assert exact_match("The Thames!", ["river", "thames"])
    assert not exact_match("Thames river", ["thames"])
    assert words_f1("Thames river", ["the Thames"]) == pytest.approx(2 / 3)
    assert words_f1("nothing", ["the Thames"]) == 0
    assert words_f1("the", ["a"]) == 1


def test_the_best_span_ends_behind_its_start_and_soon() -> None:
    import torch

    random = torch.Generator().manual_seed(0)
    for length in (1, 5, LONGEST + 30):
        starts, ends = (torch.randn(length, generator=random) for _ in range(2))
        sums = (starts[:, None] + ends).triu().masked_fill(torch.ones(length, length).triu().logical_not(), -torch.inf)
        sums = sums.masked_fill(torch.ones(length, length).triu(LONGEST).bool(), -torch.inf)
        wanted = divmod(int(sums.argmax()), length)
        assert best_span(starts.numpy(), ends.numpy()) == wanted


def test_translation_scores_are_sacrebleus() -> None:
    there = ["The cat sits on the mat.", "A dog runs through the park today."]
    same = translation_scores(there, there)
    assert same.bleu == pytest.approx(100)
    assert same.chrf == pytest.approx(100)
    assert "tok:13a" in same.bleu_signature
    assert "case:mixed" in same.bleu_signature
    assert "nc:6" in same.chrf_signature
    other = translation_scores(["the cat sits on the mat.", "A dog runs through a park today."], there)
    assert 20 < other.bleu < 90
