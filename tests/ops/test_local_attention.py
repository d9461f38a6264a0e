"""Local attention against a dense mask, values and gradients."""

import itertools

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import local_attention
from reformer.ops.ranks import compute_ranks
from reformer.ops.reference import dropout_factors


def dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: str,
    size: int,
    before: int,
    after: int,
    causal: bool,
    mask: Tensor | None,
    segments: Tensor | None,
    kept: Tensor | None = None,
) -> Tensor:
    b, _, length, d = q.shape
    ranks = compute_ranks(b, length, mask, segments)
    real, document, rank = (x.expand(b, -1) for x in (ranks.real, ranks.document, ranks.rank))
    padding = ~real[:, None, :, None]
    q, k, v = (x.masked_fill(padding, 0.0) for x in (q, k, v))
    if rule == "window":
        back = rank[:, :, None] - rank[:, None, :]
        times = ((back < size) & (back > (-1 if causal else -size))).double()
    else:
        chunks = -(-length // size)
        chunk = torch.arange(length) // size
        slots = [(chunk[:, None] + offset) % chunks == chunk[None, :] for offset in range(-before, after + 1)]
        times = torch.stack(slots).double().sum(0).expand(b, -1, -1)
        if causal:
            times = times * torch.ones(length, length).tril()
    times = times * (real[:, :, None] & (document[:, :, None] == document[:, None, :]))
    logits = (q @ k.transpose(-1, -2)) / d**0.5 + times[:, None].log()
    p = torch.where(real[:, None, :, None], logits, torch.zeros_like(logits)).softmax(-1)
    return ((p if kept is None else p * kept[:, :, 0]) @ v).masked_fill(padding, 0.0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("rule", "size", "before", "after"),
    [("window", 1, 0, 0), ("window", 5, 0, 0), ("window", 40, 0, 0), ("chunk", 4, 1, 0), ("chunk", 5, 2, 1)],
)
def test_equals_dense(rule: str, size: int, before: int, after: int, causal: bool) -> None:
    for seed, (length, padded, packed) in enumerate(
        itertools.product((1, 2, 5, 16, 33, 70), (False, True), (False, True))
    ):
        torch.manual_seed(seed)
        q, k, v = (torch.randn(2, 2, length, 6, dtype=torch.float64, requires_grad=True) for _ in range(3))
        mask = torch.rand(2, length) < 0.7 if padded else None
        segments = (torch.rand(2, length) < 0.1).long().cumsum(1) if packed else None
        chunks = {"chunk_length": size, "chunks_before": before, "chunks_after": after}
        out = local_attention(
            q,
            k,
            v,
            rule=rule,
            **({"window": size} if rule == "window" else chunks),
            causal=causal,
            key_padding_mask=mask,
            segment_ids=segments,
        )
        expected = dense(q, k, v, rule, size, before, after, causal, mask, segments)
        weight = torch.randn_like(out)
        got = (out, *torch.autograd.grad(out, (q, k, v), weight))
        wanted = (expected, *torch.autograd.grad(expected, (q, k, v), weight))
        for a, b in zip(got, wanted, strict=True):
            assert (a - b).abs().max() < 1e-10, f"seed {seed}, length {length}"


def test_dropout_equals_dense_with_the_same_mask() -> None:
    q, k, v = (torch.randn(2, 2, 40, 6, dtype=torch.float64) for _ in range(3))
    kept = dropout_factors((2, 2, 1, 40, 40), 0.4, 77, 1, False, q.device)
    out = local_attention(q, k, v, window=7, dropout_p=0.4, dropout_seed=77)
    assert (out - dense(q, k, v, "window", 7, 0, 0, True, None, None, kept)).abs().max() < 1e-12


def test_large_logits() -> None:
    q, k, v = (torch.randn(1, 2, 50, 8) * factor for factor in (300, 300, 1))
    out = local_attention(q, k, v, window=9)
    expected = dense(q.double(), k.double(), v.double(), "window", 9, 0, 0, True, None, None)
    assert (out - expected).abs().max() < 1e-2
    assert out.isfinite().all()


def test_bad_input() -> None:
    q = torch.randn(1, 1, 4, 4)
    with pytest.raises(ValueError, match="window=0"):
        local_attention(q, q, q, window=0)
    with pytest.raises(ValueError, match="did you mean 'window'"):
        local_attention(q, q, q, rule="windows")
    with pytest.raises(ValueError, match="alike"):
        local_attention(q, q[:, :, :3], q)
