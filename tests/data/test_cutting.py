"""Windows in pieces."""

import pytest
import torch

from reformer.data.cutting import SHORTEST, CutWindows
from reformer.data.stream import ArrayStream
from reformer.data.tokenizer import ByteTokenizer
from reformer.data.windows import Collate, TrainingWindows
from reformer.settings.phases import Phase
from reformer.tasks.lm import LanguageModelling


def windows(length: int, count: int) -> TrainingWindows:
    stream = ArrayStream((torch.arange(length * 20) % 200 + 10).numpy().astype("uint16"))
    return TrainingWindows(stream, [Phase(length, count)], rows=1, seed=0)


def test_a_share_of_the_windows_is_cut_into_pieces_of_all_lengths() -> None:
    whole = windows(512, 400)
    cut = CutWindows(whole, 0.25, seed=1)
    assert len(cut) == 400
    marked = [cut[i]["segment_ids"] for i in range(400) if "segment_ids" in cut[i]]
    assert 60 < len(marked) < 140
    assert all(ids[0] == 1 and set(ids.diff().tolist()) <= {0, 1} for ids in marked)
    pieces = torch.cat([ids.bincount()[1:-1] for ids in marked])  # the last of a window may be shorter
    assert pieces.min() == SHORTEST
    assert pieces.max() > 256
    assert 0.3 < (pieces < 90).float().mean() < 0.75  # evenly over octaves, and long ones leave no room for more
    for i in range(400):
        assert cut[i]["input_ids"].equal(whole[i]["input_ids"])
        assert cut[i]["labels"].equal(whole[i]["labels"])


def test_which_are_cut_depends_on_the_seed_and_the_number_alone() -> None:
    cut, again, other = (CutWindows(windows(64, 50), 0.5, seed=seed) for seed in (1, 1, 2))
    where = ["segment_ids" in cut[i] for i in range(50)]
    assert where == ["segment_ids" in again[i] for i in reversed(range(50))][::-1]
    assert where != ["segment_ids" in other[i] for i in range(50)]
    assert all(cut[i]["segment_ids"].equal(again[i]["segment_ids"]) for i in range(50) if where[i])


@pytest.mark.parametrize("length", [2, SHORTEST, SHORTEST + 1])
def test_short_windows(length: int) -> None:
    cut = CutWindows(windows(length, 10), 0.99, seed=0)
    assert ("segment_ids" in cut[0]) == (length > SHORTEST)


def test_a_batch_of_pieces_padding_and_documents() -> None:
    ids = torch.tensor([5, 1, 6, 7, 8, 9])
    cut = {"input_ids": ids, "labels": ids, "segment_ids": torch.tensor([1, 1, 1, 2, 2, 3])}
    short = {"input_ids": ids[:3], "labels": ids[:3]}
    joined = Collate(ByteTokenizer())([cut, short])
    assert joined["segment_ids"].tolist() == [[0, 0, 0, 1, 1, 2], [0] * 6]
    assert joined["labels"].tolist() == [ids.tolist(), [5, 1, 6, -100, -100, -100]]
    apart = Collate(ByteTokenizer(), apart=True)([cut, short])
    assert apart["segment_ids"].tolist() == [[0, 1, 1, 2, 2, 3], [0, 1, 1, 1, 1, 1]]
    assert apart["labels"][0].tolist() == [5, -100, 6, 7, 8, 9]
    assert "segment_ids" not in Collate(ByteTokenizer())([short, short])


def test_a_share_is_below_1() -> None:
    with pytest.raises(ValueError, match="cut_windows=1"):
        LanguageModelling(cut_windows=1)
