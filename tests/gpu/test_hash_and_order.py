"""Hashes and sorts of the kernels against those of PyTorch operations."""

import pytest
import torch

from reformer.ops.hashing import Rotations, columns_for, draw_rotations, hash_factors, hash_octaves
from reformer.ops.neighbourhoods import octave_counts, octave_rows, row_buckets
from reformer.ops.ranks import compute_ranks
from reformer.ops.sequences import Sequences
from reformer.ops.spec import LSH, Chunks, Local, Octaves
from tests.gpu.cases import documents, padded, vectors


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("factor_from", [256, 8, 1])
def test_hashes_of_all_octaves(causal: bool, factor_from: int, device: str) -> None:
    from reformer.ops.gpu import kernels, layout

    (q,) = vectors((2, 2, 140, 24), 1, torch.float32, device)
    sequences = Sequences.of(q, padded(2, 140, device), documents(2, 140, device))
    spec = LSH(rule=Octaves(2, factor_from=factor_from), rounds=3, causal=causal)
    rows = layout.layout_of(sequences, spec)
    names = rows.names[:, None, None]
    octaves = range(names.shape[3])
    rotations = draw_rotations(1, 2, 3, 24, columns_for(octaves, factor_from))
    expected = hash_octaves(q.double(), rotations.to(device), octaves, factor_from)
    found = kernels.hash_rows(q, rows, Rotations(rotations, 0), spec)
    found = found.view(kernels.bucket_type(1 << octaves[-1])).int()
    names = names.expand_as(expected)
    found = found.gather(3, names.clamp(min=0).flatten(3).long()).view_as(expected)
    assert torch.equal(found[names >= 0], expected[names >= 0])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("limit", [None, 4])
@pytest.mark.parametrize("masks", ["neither", "padding", "documents", "both"])
def test_rows_of_octaves(causal: bool, limit: int | None, masks: str, device: str) -> None:
    """Each token once in its own octave and, as a key, in those behind it; in time order, in groups of their own."""
    from reformer.ops.gpu import layout

    b, length = 3, 90
    mask = padded(b, length, device).t().contiguous().t() if masks in ("padding", "both") else None
    ids = documents(b, length, device) if masks in ("documents", "both") else None
    rule = Octaves(4, num_buckets=limit)
    found = layout.row_layout(Sequences.of(torch.empty(b, length, 1, device=device), mask, ids), rule, causal)
    ranks = compute_ranks(b, length, mask, ids, torch.device(device))
    expected = octave_rows(ranks, rule, causal)
    assert all(x.is_contiguous() for x in (found.token, found.base, found.names, found.alive))
    there = (found.names >= 0).sum((1, 2))
    assert torch.equal(there, expected.exists.sum(1))
    assert torch.equal(there, (found.base >= 0).sum(1))
    for row in range(found.names.shape[0]):
        for token, octave, base, query, _ in zip(
            *(x[row][expected.exists[row]].tolist() for x in vars(expected).values()), strict=True
        ):
            name = found.names[row, octave, token]
            assert found.base[row, name] == base
            assert found.token[row, name] == (token if query else -1 - token)
            assert base + (1 << octave) <= found.groups
        names = found.names[row]
        assert all(torch.equal(octave[octave >= 0].sort().values, octave[octave >= 0]) for octave in names)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masks", ["padding", "documents", "both"])
def test_in_a_graph_a_layout_does_not_wait_for_the_gpu(causal: bool, masks: str) -> None:
    """On a device that has no numbers to look at; its rows are enough for whatever the documents are."""
    from reformer.ops.gpu import layout

    mask = padded(2, 300, "cpu") if masks != "documents" else None
    ids = documents(2, 300, "cpu") if masks != "padding" else None
    rule = Octaves(4)
    on_meta = (None if each is None else each.to("meta") for each in (mask, ids))
    whole = layout.row_layout(Sequences.of(torch.empty(2, 300, 1, device="meta"), *on_meta), rule, causal)
    needed = layout.row_layout(Sequences.of(torch.empty(2, 300, 1), mask, ids), rule, causal)
    assert whole.token.shape[1] >= needed.token.shape[1]
    assert whole.names.shape[1] >= needed.names.shape[1]
    assert whole.groups >= needed.groups
    for each in (1, 2, 3, 5, 300):  # documents as short as they get, and one
        short = torch.arange(300)[None] // each
        counts = octave_counts(compute_ranks(1, 300, None, short), Octaves(1), causal)
        most = layout._most_counts(300, Octaves(1), causal)
        assert all(a <= b for a, b in zip(counts.tolist(), most, strict=True))


def test_packed_layouts(device: str) -> None:
    """As operators take them, and back."""
    from reformer.ops.gpu import layout

    x = torch.empty(2, 40, 1, device=device)
    for masks in ({}, {"key_padding_mask": padded(2, 40, device), "segment_ids": documents(2, 40, device)}):
        for spec in (LSH(rule=Octaves(4)), LSH(rule=Chunks(4, factors=(4,))), Local(), Local(rule=Chunks(4))):
            made = layout.layout_of(Sequences.of(x, **masks), spec)
            again = vars(layout.Layout.unpacked(*made.packed()))
            assert all(again[name] is value or again[name] == value for name, value in vars(made).items())
            assert (made.real is None) == (not masks)
            assert (made.following is not None) == (made.preceding is not None) == bool(masks and spec.successor_values)


def test_rows_are_no_more_than_the_longest_text_needs(device: str) -> None:
    from reformer.ops.gpu import layout

    mask = torch.zeros(2, 300, dtype=torch.bool, device=device)
    mask[0, 50:70] = True
    found = layout.row_layout(Sequences.of(torch.empty(2, 300, 1, device=device), mask), Octaves(4), True)
    alone = layout.row_layout(Sequences(1, 20, torch.device(device)), Octaves(4), True)
    assert found.token.shape[1] == alone.token.shape[1]
    assert found.names.shape[1] == alone.names.shape[1]
    assert found.groups == alone.groups


@pytest.mark.parametrize("factor_from", [1 << 20, 64, 1])
def test_hashes_of_more_columns_than_a_block(factor_from: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    from reformer.ops.gpu import hashing as hash_kernels
    from reformer.ops.gpu import kernels, layout

    monkeypatch.setattr(hash_kernels.hash_octaves, "configs", [triton.Config({"C": 16}, num_warps=4)])
    (q,) = vectors((1, 1, 1100, 16), 1, torch.float32, device)
    rows = octave_rows(compute_ranks(1, 1100, device=torch.device(device)), Octaves(1), True)
    octaves = list(range(12))
    rotations = draw_rotations(1, 1, 1, 16, columns_for(octaves, factor_from))
    expected = row_buckets(hash_octaves(q.double(), rotations.to(device), octaves, factor_from), rows)
    spec = LSH(rule=Octaves(1, factor_from=factor_from), rounds=1)
    found = kernels.hash_rows(q, layout.layout_of(Sequences.of(q), spec), Rotations(rotations, 0), spec)
    assert torch.equal(found.view(kernels.bucket_type(1 << 11)).int(), expected)


@pytest.mark.parametrize("factors", [(4,), (2, 6), (64, 16)])
def test_hashes_of_factors(factors: tuple[int, ...], device: str) -> None:
    from reformer.ops.gpu import kernels, layout

    (q,) = vectors((1, 2, 100, 16), 1, torch.float32, device)
    rotations = draw_rotations(1, 2, 2, 16, sum(factors) // 2)
    spec = LSH(rule=Chunks(factors=factors), rounds=2)
    found = kernels.hash_rows(q, layout.layout_of(Sequences.of(q), spec), Rotations(rotations, 0), spec)
    count = 1
    for factor in factors:
        count *= factor
    expected = hash_factors(q.double(), rotations.to(device), factors)
    assert torch.equal(found.view(kernels.bucket_type(count)).int(), expected)


@pytest.mark.parametrize(
    ("groups", "most", "passes"),
    [(7, None, 2), (300, None, 2), (1000, None, 2), (40, 10, 2), (300, None, 0), (40, 10, 0)],
)
def test_order_is_a_stable_sort_by_group(
    groups: int, most: int | None, passes: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One digit and two, several blocks, rows that do not exist; and the sort for more groups than that."""
    from reformer.ops.gpu import order

    monkeypatch.setattr(order, "PASSES", passes)

    generator = torch.Generator().manual_seed(groups)
    b, h, rounds, n = 2, 2, 2, 75
    top = groups if most is None else most
    bases = 1 if most is None else groups // most
    base = torch.randint(bases, (b, n), generator=generator).sort(1).values * top
    base[1, 50:] = -1
    buckets = torch.randint(top, (b, h, rounds, n), generator=generator, dtype=torch.int32)
    token = torch.randperm(n, generator=generator).expand(b, n).contiguous().int()
    key = torch.where(base[:, None, None] < 0, groups, base[:, None, None] + buckets)
    expected, places = key.sort(dim=-1, stable=True)
    inputs = (x.to(device) for x in (buckets, base.int(), token))
    found_token, found_group, found_name = (x.cpu() for x in order.sort_rows(*inputs, groups, most))
    assert torch.equal(found_name.long(), places)
    tokens = token[:, None, None].expand_as(places).gather(3, places)
    assert torch.equal(found_token, torch.where(expected == groups, -(1 << 31), tokens))
    seen = expected * rounds + torch.arange(rounds)[:, None] if most is None else expected // most
    assert torch.equal(found_group.long()[expected < groups], seen[expected < groups])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 5, 300])
def test_bounds_of_windows(window: int, causal: bool, device: str) -> None:
    from reformer.ops.gpu.order import row_bounds

    group = torch.randint(9, (2, 1, 290), generator=torch.Generator().manual_seed(0)).sort(-1).values.int()
    row = torch.arange(290)
    same = group[..., :, None] == group[..., None, :]
    low, high = (x.cpu() for x in row_bounds(group.to(device), window, causal))
    near = same & ((row[:, None] - row).abs() <= window)
    assert torch.equal(low.long(), near.int().argmax(-1))
    if not causal:
        assert torch.equal(high.long(), 290 - near.flip(-1).int().argmax(-1))
