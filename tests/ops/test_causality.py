"""Strict causality of `rule="bucket"`, documents apart, and the leak of `rule="chunk"`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import lsh_attention
from reformer.ops.hashing import columns_for, draw_rotations, hash_octaves
from reformer.ops.neighbourhoods import octave_rows, row_buckets, sort_bucket_rows
from reformer.ops.ranks import compute_ranks
from reformer.ops.spec import Octaves

OPTIONS: dict[str, Any] = {"num_hashes": 2, "window": 4, "factor_from": 8, "seed": 0}


def moved(before: Tensor, after: Tensor, t: int) -> float:
    return float((before[:, :, :t] - after[:, :, :t]).abs().max())


def selected_keys(q: Tensor, mask: Tensor | None, segments: Tensor | None, upto: int) -> set[tuple[int, ...]]:
    """(row, head, round, query, key) of every pair that the sorted rows offer to queries before `upto`."""
    b, h, length, d = q.shape
    ranks = compute_ranks(b, length, mask, segments)
    layout = octave_rows(ranks, Octaves(4), causal=True)
    octaves = list(range(int(layout.octave.max()) + 1))
    rotations = draw_rotations(0, h, 2, d, columns_for(octaves, 8))
    rows = sort_bucket_rows(row_buckets(hash_octaves(q, rotations, octaves, 8), layout), layout, name_rows=False)
    found = set()
    n = rows.token.shape[2] // 2
    for i in range(b):
        for j in range(h):
            tokens, groups, queries = (x[i, j].tolist() for x in (rows.token, rows.group, rows.query))
            for p, (token, group) in enumerate(zip(tokens, groups, strict=True)):
                if queries[p] and group >= 0 and token < upto:
                    keys = [tokens[k] for k in range(max(p - 4, 0), p) if groups[k] == group]
                    found |= {(i, j, p // n, token, key) for key in keys}
    return found


@pytest.mark.parametrize("kind", ["plain", "padded", "packed"])
def test_what_comes_later_changes_nothing_before(kind: str) -> None:
    """Tokens from t on changed, or appended, for all t: the same keys are selected, outputs move by rounding only."""
    for seed in range(6):
        torch.manual_seed(seed)
        length = 41
        q, v = (torch.randn(2, 2, length, 6, dtype=torch.float64) for _ in range(2))
        mask = torch.rand(2, length) < 0.7 if kind == "padded" else None
        segments = (torch.rand(2, length) < 0.08).long().cumsum(1) if kind == "packed" else None

        def run(q: Tensor, v: Tensor, mask: Tensor | None, segments: Tensor | None) -> Tensor:
            return lsh_attention(q, v, key_padding_mask=mask, segment_ids=segments, **OPTIONS)

        whole = run(q, v, mask, segments)
        for t in range(1, length):
            other_q, other_v = q.clone(), v.clone()
            other_q[:, :, t:], other_v[:, :, t:] = torch.randn_like(q[:, :, t:]) * 3, torch.randn_like(v[:, :, t:])
            other_mask, other_segments = mask, segments
            if mask is not None:
                other_mask = torch.cat((mask[:, :t], torch.rand(2, length - t) < 0.5), 1)
            if segments is not None:
                other_segments = torch.cat((segments[:, :t], segments[:, t - 1 : t].expand(-1, length - t)), 1)
            changed = run(other_q, other_v, other_mask, other_segments)
            assert moved(whole, changed, t) < 1e-10, f"seed {seed}, t {t}"
            cut = [None if x is None else x[:, :t] for x in (mask, segments)]
            assert moved(run(q[:, :, :t], v[:, :, :t], *cut), whole, t) < 1e-10, f"seed {seed}, t {t}"
            if seed == 0:
                keys = selected_keys(q, mask, segments, t)
                assert keys == selected_keys(other_q, other_mask, other_segments, t)
                assert keys == selected_keys(q[:, :, :t], *cut, t)


def test_the_chunk_rule_leaks() -> None:
    """A known property of the older implementations' rule: later tokens choose what earlier ones see."""
    torch.manual_seed(0)
    q, v = (torch.randn(1, 2, 64, 6, dtype=torch.float64) for _ in range(2))
    options = {"rule": "chunk", "chunk_length": 8, "num_buckets": 8, "num_hashes": 2, "seed": 0}
    whole = lsh_attention(q, v, **options)
    q[:, :, 40:] = torch.randn_like(q[:, :, 40:])
    assert moved(whole, lsh_attention(q, v, **options), 40) > 1e-3


def test_padding_changes_nothing() -> None:
    """A row gives the same wherever its padding stands, and whatever stands in it."""
    for seed in range(10):
        torch.manual_seed(seed)
        q, v = (torch.randn(1, 2, 30, 6, dtype=torch.float64) for _ in range(2))
        alone = lsh_attention(q, v, **OPTIONS)
        slots = torch.randperm(50)[:30].sort().values
        mask = torch.zeros(1, 50, dtype=torch.bool).index_fill(1, slots, True)
        padded_q, padded_v = (torch.full((1, 2, 50, 6), torch.nan, dtype=torch.float64) for _ in range(2))
        padded_q[:, :, slots], padded_v[:, :, slots] = q, v
        out = lsh_attention(padded_q, padded_v, key_padding_mask=mask, **OPTIONS)
        assert (out[:, :, slots] - alone).abs().max() < 1e-12, f"seed {seed}"
        assert (out[:, :, ~mask[0]] == 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_packed_document_gives_what_it_gives_alone(causal: bool) -> None:
    """Outputs and gradients."""
    for seed in range(10):
        torch.manual_seed(seed)
        lengths = [7, 1, 23, 12]
        q, v = (torch.randn(1, 2, sum(lengths), 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
        segments = torch.repeat_interleave(torch.tensor([0, 3, 4, 9]), torch.tensor(lengths))[None]
        weight = torch.randn_like(q)
        out = lsh_attention(q, v, segment_ids=segments, causal=causal, **OPTIONS)
        grads = torch.autograd.grad(out, (q, v), weight)
        start = 0
        for length in lengths:
            part = slice(start, start + length)
            alone = [x.detach()[:, :, part].clone().requires_grad_() for x in (q, v)]
            expected = lsh_attention(*alone, causal=causal, **OPTIONS)
            expected_grads = torch.autograd.grad(expected, alone, weight[:, :, part])
            for a, b in zip((out, *grads), (expected, *expected_grads), strict=True):
                assert (a[:, :, part] - b).abs().max() < 1e-11, f"seed {seed}"
            start += length


def test_outputs_do_not_depend_on_the_limit_until_it_is_reached() -> None:
    q, v = (torch.randn(1, 2, 63, 6, dtype=torch.float64) for _ in range(2))
    free = lsh_attention(q, v, **OPTIONS)
    assert moved(free, lsh_attention(q, v, num_buckets=16, **OPTIONS), 63) == 0
    assert moved(free, lsh_attention(q, v, num_buckets=4, **OPTIONS), 63) > 1e-3
    assert moved(free, lsh_attention(q, v, num_buckets=4, **OPTIONS), 16) < 1e-12
