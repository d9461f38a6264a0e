"""Rows before and after sorting, for every rule, LSH or local, and what kernels need to know of masks."""

from dataclasses import dataclass, fields, replace
from math import prod

import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor

from reformer.ops.capture import cached
from reformer.ops.gpu.order import row_bounds, sort_rows
from reformer.ops.gpu.tiles import NOBODY, Reach, Rows
from reformer.ops.neighbourhoods import (
    local_chunk_rows,
    local_window_rows,
    octaves_of,
    rows_before,
)
from reformer.ops.operators import has_one_bound
from reformer.ops.ranks import Ranks, rank_all
from reformer.ops.sequences import Sequences
from reformer.ops.spec import LSH, Band, Chunks, Local, Octaves

HASHED = 128
"""Tokens that are hashed together."""


@dataclass(frozen=True)
class Layout:
    """Rows of one round before sorting, of which a row's place is the name; or rows of local attention, in order.

    `b` is 1 where all batch rows are alike. What a spec or a batch without masks has no use for is None.
    """

    groups: int
    """More than any group."""
    token: Int[Tensor, "b n"]
    """The slot of each row's token; -1 - slot where the row is a key only."""
    base: Int[Tensor, "b n"] | None = None
    """The group of the row's bucket 0; -1 for a row that does not exist."""
    names: Int[Tensor, "b octaves l"] | None = None
    """The row of each token in each octave, or -1."""
    alive: Int[Tensor, "b blocks"] | None = None
    """The octaves, as bits, that tokens have which are hashed together."""
    low: Int[Tensor, "b 1 n"] | None = None
    high: Int[Tensor, "b 1 n"] | None = None
    """The rows that each row of local attention sees, as `Rows` has it."""
    real: Bool[Tensor, "b l"] | None = None
    """False for padding, if there is any."""
    following: Int[Tensor, "b l"] | None = None
    preceding: Int[Tensor, "b l"] | None = None
    """With masks, where values are those of successors: the slots of the tokens behind and before each, or -1."""

    def packed(self) -> tuple[list[Tensor], list[int]]:
        """What operators take: the tensors that there are, and which."""
        tensors = [getattr(self, name) for name in TENSORS]
        return [x for x in tensors if x is not None], [self.groups, *(int(x is not None) for x in tensors)]

    @classmethod
    def unpacked(cls, tensors: list[Tensor], sizes: list[int]) -> "Layout":
        """The other way round."""
        rest = iter(tensors)
        return cls(sizes[0], *(next(rest) if there else None for there in sizes[1:]))  # type: ignore[arg-type]


TENSORS = tuple(field.name for field in fields(Layout))[1:]


def layout_of(sequences: Sequences, spec: LSH | Local) -> Layout:
    """All that kernels need to know of the tokens; of sequences without masks it is kept."""
    rule = spec.rule
    if isinstance(spec, LSH) and isinstance(rule, Chunks):
        layout = chunk_layout(sequences, rule)
    else:
        layout = row_layout(sequences, rule, spec.causal)
    if sequences.key_padding_mask is not None:
        layout = replace(layout, real=sequences.ranks.real)
    if sequences.masked and spec.successor_values:
        following, preceding = (sequences.slots_at(offset).int().contiguous() for offset in (1, -1))
        layout = replace(layout, following=following, preceding=preceding)
    return layout


def row_layout(sequences: Sequences, rule: Octaves | Chunks | Band, causal: bool) -> Layout:
    """Rows of LSH attention by octaves, or of local attention; without masks a layout serves many forwards."""
    if not sequences.masked:
        return _plain_layout(sequences.length, rule, causal, sequences.device)
    if isinstance(rule, Octaves):
        counts = sequences.counts(rule, causal) or _most_counts(sequences.length, rule, causal)
        return _octave_layout(sequences.ranks, rule, causal, counts)
    return _local_layout(sequences.ranks, rule, causal)


@cached(8)
def _plain_layout(length: int, rule: Octaves | Chunks | Band, causal: bool, device: torch.device) -> Layout:
    ranks = rank_all(length, device)
    if not isinstance(rule, Octaves):
        return _local_layout(ranks, rule, causal)
    octaves = rule.octave_of(length - 1) + 1
    n = length + rows_before(octaves - 1, rule.bucket_size, causal)
    return _octave_layout(ranks, rule, causal, (octaves, n, 1 << octaves))


def _most_counts(length: int, rule: Octaves, causal: bool) -> tuple[int, int, int]:
    """`octave_counts` can be no more than this, whatever the documents are: the host cannot ask in a graph.

    A document of L tokens that reaches octave k > 0 has more than `bucket_size * 2**(k - 1)` of them, so less than 2 L
    rows in front of its last octave, and at most 4 L groups.
    """
    return rule.octave_of(length - 1) + 1, 3 * length if causal else length, 4 * length


def _octave_layout(ranks: Ranks, rule: Octaves, causal: bool, counts: tuple[int, int, int]) -> Layout:
    """Document by document, octave by octave, and there by rank; `counts` as `octave_counts` has them, or more.

    Octave k has all tokens of rank below `bucket_size * 2**k`, so where it starts follows from k alone.
    """
    (octaves, n, group_count), length, bucket_size = counts, ranks.rank.shape[1], rule.bucket_size
    n = max(n, 1)  # if all is padding
    last = octaves_of(ranks.last, rule)
    own = octaves_of(ranks.rank, rule) if causal else last
    starts = ranks.real & (ranks.rank == 0)
    rows, groups = ranks.last + 1 + rows_before(last, bucket_size, causal), 2 << last  # of each token's document
    first_row, first_group = (torch.where(starts, x, 0).cumsum(1) - x for x in (rows, groups))

    k = torch.arange(octaves, device=last.device)[:, None]
    own, last, rank, first_row, first_group = (x[:, None] for x in (own, last, ranks.rank, first_row, first_group))
    exists = ranks.real[:, None] & (k >= own) & (k <= last)  # [b, octaves, l]
    names = torch.where(exists, first_row + rows_before(k, bucket_size, causal) + rank, n)

    def at_rows(value: Tensor) -> Tensor:
        rows = torch.full((len(names), n + 1), -1, dtype=torch.int32, device=value.device)
        return rows.scatter_(1, names.flatten(1), value.expand_as(names).flatten(1))[:, :n].contiguous()

    slot = torch.arange(length, dtype=torch.int32, device=last.device)
    here = torch.nn.functional.pad(exists, (0, -length % HASHED)).unflatten(2, (-1, HASHED)).any(3)
    return Layout(
        groups=max(group_count - 1, 1),
        token=at_rows(torch.where(k == own, slot, -1 - slot)),
        base=at_rows((first_group + (1 << k) - 1).int()),
        names=torch.where(exists, names, -1).int().contiguous(),
        alive=(here.int() << k).sum(1, dtype=torch.int32),
    )


BUCKET_TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # by their bytes


def chunk_layout(sequences: Sequences, rule: Chunks) -> Layout:
    """Rows of `rule="chunk"`: each token once, and slots of nobody up to a multiple of the chunk."""
    document, length, most = sequences.ranks.document, sequences.length, prod(rule.factors or ())
    slots = torch.arange(-(-length // rule.length) * rule.length, dtype=torch.int32, device=document.device)
    there = torch.nn.functional.pad(document, (0, slots.shape[0] - length), value=-1)
    return Layout(
        groups=sequences.documents(rule) * most,
        token=slots.clamp(max=length - 1)[None],
        base=torch.where(there >= 0, there * most, -1).int(),
        names=slots[None, None, :length],
    )


def order_rows(buckets: Integer[Tensor, "b h r bytes"], layout: Layout, spec: LSH) -> list[Tensor]:
    """The rows of all rounds in the order of their buckets: token, name and bounds, [b, h, r, n]."""
    base, names, rule = layout.base, layout.names, spec.rule
    assert base is not None
    assert names is not None
    here = base.shape[1] if isinstance(rule, Octaves) else names.shape[2]
    buckets = buckets.view(BUCKET_TYPES[buckets.shape[3] // here])
    if missing := base.shape[1] - here:
        buckets = torch.nn.functional.pad(buckets, (0, missing))
    most = None if isinstance(rule, Octaves) else prod(rule.factors or ())
    token, group, name = sort_rows(buckets, base, layout.token.expand_as(base).contiguous(), layout.groups, most)
    if not isinstance(rule, Octaves):
        return [token, name, group]
    bounds = (x.view_as(group) for x in row_bounds(group.flatten(2), rule.window, spec.causal))
    return [token, name, *bounds][: 3 if has_one_bound(spec) else 4]


def hashed_rows(token: Tensor, name: Tensor, low: Tensor, high: Tensor | None = None) -> Rows:
    """What `order_rows` gave, as kernels take it."""
    _, h, rounds, n = token.shape
    return Rows(token, low, low if high is None else high, name, h * rounds * n, rounds * n, rounds * n, n)


def local_rows(layout: Layout) -> Rows:
    """The rows of local attention, alike for all heads."""
    token, n = layout.token, layout.token.shape[-1]
    return Rows(token, layout.low, layout.high, token, n if token.shape[0] > 1 else 0, 0, n, n)


def _local_layout(ranks: Ranks, rule: Band | Chunks, causal: bool) -> Layout:
    rows = local_window_rows(ranks) if isinstance(rule, Band) else local_chunk_rows(ranks, rule.length)
    token = rows.token.expand_as(rows.group).masked_fill(~rows.query, NOBODY.value)
    group = rows.group.contiguous()
    low, high = row_bounds(group, rule.window - 1, causal) if isinstance(rule, Band) else (group, group)
    return Layout(groups=0, token=token, low=low, high=high)


def reach_of(spec: LSH | Local, tile: int, first: int, end: int) -> Reach:
    """What the tiles of rows [first, end) may see; the chunk of a band is its tile."""
    rule = spec.rule
    if isinstance(rule, Chunks):
        return Reach(first, end, rule.length, rule.before * rule.length, rule.after * rule.length)
    reach = rule.window - isinstance(rule, Band)
    return Reach(first, end, tile, reach, 0 if spec.causal else reach)
