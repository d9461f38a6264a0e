import gc
import weakref

import torch

from reformer.ops import ranks
from reformer.ops.shared_masks import share_masks, worked_out


def test_once_for_masks_that_were_given_together() -> None:
    mask, ids = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.long)
    a, b = share_masks(mask, ids)
    (other,) = share_masks(mask)
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        return len(calls)

    assert [worked_out((a, b), "key", compute) for _ in range(2)] == [1, 1]
    assert worked_out((a, b), "another key", compute) == 2
    assert worked_out((a, None), "key", compute) == 3
    assert worked_out((other, b), "key", compute) == 4  # not of the same call: not kept
    assert worked_out((other, b), "key", compute) == 5
    assert worked_out((mask, ids), "key", compute) == 6
    assert worked_out((None, None), "key", compute) == 7
    mask[:] = False
    assert a.all()


def test_results_die_with_their_masks() -> None:
    (mask,) = share_masks(torch.tensor([[True, False]]))
    assert mask is not None
    held = weakref.ref(ranks.compute_ranks(1, 2, mask).rank)
    assert ranks.compute_ranks(1, 2, mask).rank is held()
    gc.disable()  # no cycle has to be found
    try:
        del mask
        assert held() is None
    finally:
        gc.enable()
