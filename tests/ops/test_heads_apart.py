"""Heads that are computed apart, as processes that share a sequence do, give what they give together."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import attend_by_content, attend_nearby
from reformer.ops.sequences import Sequences
from reformer.ops.spec import make_local, make_lsh

HEADS = 6
CASES: dict[str, Any] = {
    "bucket": make_lsh(window=8, num_hashes=2, dropout=0.3),
    "once": make_lsh(window=8, num_hashes=2, dropout=0.3, duplicates="once"),
    "one set of rotations": make_lsh(window=8, num_hashes=2, dropout=0.3, share_rotations=True),
    "chunk": make_lsh(rule="chunk", chunk_length=8, num_hashes=2, dropout=0.3),
    "local": make_local(window=12, dropout=0.3),
}


def attended(spec: Any, q: Tensor, v: Tensor, backend: Any) -> Tensor:
    sequences = Sequences.of(q)
    if "local" not in type(spec).__name__.lower():
        return attend_by_content(q, v, spec, sequences, seed=5, dropout_seed=7, backend=backend)
    return attend_nearby(q, q, v, spec, sequences, dropout_seed=7, backend=backend)


@pytest.mark.parametrize("backend", ["plain", "numba"])
@pytest.mark.parametrize("case", CASES)
def test_hashes_and_dropout_go_by_the_number_among_all_heads(case: str, backend: str) -> None:
    torch.manual_seed(0)
    q, v = (torch.randn(2, HEADS, 45, 8, dtype=torch.float64) for _ in range(2))
    together = attended(CASES[case], q, v, backend)
    for first, count in ((0, 1), (2, 2), (3, 3)):
        spec, own = replace(CASES[case], part_of=(first, HEADS)), slice(first, first + count)
        assert (attended(spec, q[:, own], v[:, own], backend) - together[:, own]).abs().max() < 1e-12
    wrong = attended(CASES[case], q[:, 2:4], v[:, 2:4], backend)
    assert (wrong - together[:, 2:4]).abs().max() > 0.01  # as if they were the first ones
