import pytest
import torch

from reformer.ops.ranks import compute_ranks


def test_ranks_count_real_tokens_of_the_document() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    segments = torch.tensor([[9, 0, 0, 7, 0, 2, 2, 1], [0, 0, 0, 0, 0, 0, 0, 0]])
    ranks = compute_ranks(2, 8, mask, segments)
    assert ranks.rank[0].tolist() == [0, 0, 1, 0, 2, 0, 1, 0]
    assert ranks.document[0].tolist() == [-1, 0, 0, -1, 0, 1, 1, -1]
    assert ranks.last[0].tolist() == [0, 2, 2, 0, 2, 1, 1, 0]
    assert ranks.document[1].tolist() == [-1] * 8


def test_nothing_padded() -> None:
    ranks = compute_ranks(3, 4)
    assert ranks.rank.tolist() == [[0, 1, 2, 3]]
    assert ranks.last.tolist() == [[3, 3, 3, 3]]


def test_decreasing_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="segment_ids fall from 5 to 3 at row 1, slot 2"):
        compute_ranks(2, 3, None, torch.tensor([[0, 0, 0], [1, 5, 3]]))


@pytest.mark.parametrize("name", ["key_padding_mask", "segment_ids"])
def test_masks_of_another_shape_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} has shape \[2, 4\]; it must be \[b, l\] = \[2, 3\]"):
        compute_ranks(2, 3, **{name: torch.ones(2, 4, dtype=torch.long)})
