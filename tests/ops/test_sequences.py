"""What is known of the tokens of a batch: worked out once, alive as long as it, asked for in one go."""

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch

from reformer.ops.neighbourhoods import octave_counts
from reformer.ops.questions import Questions
from reformer.ops.ranks import compute_ranks
from reformer.ops.sequences import Sequences
from reformer.ops.spec import Chunks, Octaves

IDS = torch.tensor([[0, 0, 1, 1, 1], [2, 2, 2, 2, 2]])
MASK = torch.tensor([[True, True, True, False, True], [False, True, True, True, True]])


def test_parts_are_those_of_the_masks() -> None:
    sequences, expected = Sequences.of(torch.empty(2, 3, 5, 4), MASK, IDS), compute_ranks(2, 5, MASK, IDS)
    assert all(torch.equal(a, b) for a, b in zip(vars(sequences.ranks).values(), vars(expected).values(), strict=True))
    assert sequences.document.tolist() == [[0, 0, 1, -1, 1], [-1, 0, 0, 0, 0]]
    assert sequences.document.dtype == torch.int32
    assert sequences.slots_at(1).tolist() == [[1, -1, 4, -1, -1], [-1, 2, 3, 4, -1]]
    assert sequences.slots_at(-1).tolist() == [[-1, 0, -1, -1, 2], [-1, -1, 1, 2, 3]]
    longer = sequences.lengthened(2)
    assert longer.document.tolist() == [[0, 0, 1, -1, 1, -1, -1], [-1, 0, 0, 0, 0, -1, -1]]
    assert sequences.lengthened(0) is sequences
    x = torch.full((2, 3, 5, 1), torch.nan)
    x[:, :, MASK[0]] = 1
    assert sequences.without_padding(x)[0].isfinite().all()
    assert sequences.documents(Chunks()) == 2
    assert Sequences.of(x).documents(Chunks()) == Sequences.of(x, MASK).documents(Chunks()) == 1


def test_each_part_is_worked_out_once_and_dies_with_them() -> None:
    sequences, calls = Sequences.of(torch.empty(2, 5, 4), MASK), []
    assert sequences.ranks is sequences.ranks
    assert sequences.slots_at(1) is sequences.slots_at(1)
    for key in ("one", "one", "other"):
        sequences.remember(key, lambda: calls.append(1))
    assert len(calls) == 2
    held = weakref.ref(sequences.ranks.rank)
    gc.disable()  # no cycle has to be found
    try:
        del sequences
        assert held() is None
    finally:
        gc.enable()


def test_masks_that_change_later_change_nothing() -> None:
    mask = MASK.clone()
    sequences = Sequences.of(torch.empty(2, 5, 4), mask)
    before = sequences.ranks.real.clone()
    mask[:] = True
    assert torch.equal(sequences.ranks.real, before)


@pytest.mark.parametrize("causal", [True, False])
def test_counts_of_octaves(causal: bool) -> None:
    rule, sequences = Octaves(2), Sequences.of(torch.empty(2, 5, 4), MASK, IDS)
    expected = tuple(octave_counts(sequences.ranks, rule, causal).tolist())
    assert sequences.counts(rule, causal) == expected
    asked, questions = Sequences.of(torch.empty(2, 5, 4), MASK, IDS), Questions()
    asked.ask_ahead(rule, causal, questions)
    questions.fetch()
    assert asked.counts(rule, causal) == expected


def test_one_transfer_for_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers, seen = [], []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: transfers.append(x.shape) or tolist(x))
    questions = Questions()
    one = questions.ask(torch.tensor(True))
    two = questions.ask(torch.tensor([3, 4], dtype=torch.int32), seen.append)
    nothing = questions.ask(torch.empty(0))
    assert not transfers
    assert (list(one.numbers or ()), list(two.numbers or ()), list(nothing.numbers or ())) == ([1], [3, 4], [])
    assert seen == [[3, 4]]
    questions.fetch()
    assert len(transfers) == 1
    assert questions.ask(torch.empty(1, device="meta")).numbers is None


def test_every_answer_is_there_before_a_check_raises() -> None:
    def refuse(numbers: Sequence[int]) -> None:
        raise ValueError(f"{numbers[0]} is wrong")

    questions = Questions()
    questions.ask(torch.tensor(7), refuse)
    later = questions.ask(torch.tensor(8))
    with pytest.raises(ValueError, match="7 is wrong"):
        questions.fetch()
    assert list(later.numbers or ()) == [8]


def test_falling_ids_are_found_when_asked() -> None:
    ids, questions = torch.tensor([[0, 0, 0], [1, 5, 3]]), Questions()
    Sequences.of(torch.empty(2, 3, 1), None, ids, questions)
    with pytest.raises(ValueError, match=r"segment_ids fall from 5 to 3 at row 1, slot 2"):
        questions.fetch()
    with pytest.raises(ValueError, match="segment_ids fall from 5 to 3"):
        Sequences.of(torch.empty(2, 3, 1), None, ids)
