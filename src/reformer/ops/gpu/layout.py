"""Rows before and after sorting, for every rule, LSH or local."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from reformer.ops.capture import cached, capturing
from reformer.ops.gpu.order import row_bounds, sort_rows
from reformer.ops.gpu.tiles import NOBODY, Reach, Rows
from reformer.ops.neighbourhoods import local_chunk_rows, local_window_rows, octaves_of
from reformer.ops.ranks import Ranks, compute_ranks
from reformer.ops.shared_masks import worked_out
from reformer.ops.shift import masked_slots_at
from reformer.ops.spec import LSH, Band, Chunks, Local, Octaves

HASHED = 128
"""Tokens that are hashed together."""


@dataclass(frozen=True)
class Sequences:
    """What the masks of a batch say."""

    batch: int
    length: int
    device: torch.device
    key_padding_mask: Bool[Tensor, "b l"] | None
    segment_ids: Int[Tensor, "b l"] | None

    def ranks(self) -> Ranks:
        return compute_ranks(self.batch, self.length, self.key_padding_mask, self.segment_ids, self.device)

    def slots_at(self, offset: int) -> Int[Tensor, "b l"]:
        """The slot of the token so many ranks behind each in its document, -1 for none."""
        return masked_slots_at(offset, self.batch, self.length, *self.masks, self.device).int().contiguous()

    @property
    def masks(self) -> tuple[Tensor | None, Tensor | None]:
        return self.key_padding_mask, self.segment_ids

    @property
    def masked(self) -> bool:
        return self.key_padding_mask is not None or self.segment_ids is not None


@dataclass(frozen=True)
class Layout:
    """Rows of one round before sorting; a row's place here is its name. `b` is 1 where all are alike."""

    token: Int[Tensor, "b n"]
    """The slot of each row's token; -1 - slot where the row is a key only."""
    base: Int[Tensor, "b n"]
    """The group of the row's bucket 0; -1 for a row that does not exist."""
    names: Int[Tensor, "b octaves l"]
    """The row of each token in each octave, or -1."""
    groups: int
    """More than any group."""
    alive: Int[Tensor, "b blocks"] | None = None
    """The octaves, as bits, that tokens have which are hashed together."""


def octave_layout(sequences: Sequences, rule: Octaves, causal: bool) -> Layout:
    """Rows of `rule="bucket"`. Without masks nothing depends on the data, and the layout is kept."""
    if not sequences.masked:
        return _plain_layout(sequences.length, rule, causal, sequences.device)
    whole = sequences.segment_ids is None and capturing(sequences.device)
    return worked_out(
        sequences.masks,
        ("octaves", rule, causal, sequences.device),
        lambda: _octave_layout(sequences.ranks(), rule, causal, whole),
    )


@cached(8)
def _plain_layout(length: int, rule: Octaves, causal: bool, device: torch.device) -> Layout:
    return _octave_layout(compute_ranks(1, length, device=device), rule, causal, True)


def _octave_layout(ranks: Ranks, rule: Octaves, causal: bool, whole: bool) -> Layout:
    """Document by document, octave by octave, and there by rank.

    Octave k has all tokens of rank below `bucket_size * 2**k`, so where it starts follows from k alone. `whole`: as
    many rows and octaves as one document without padding has, since to count fewer is to wait for the GPU.
    """
    length, bucket_size = ranks.rank.shape[1], rule.bucket_size
    last = octaves_of(ranks.last, rule)
    own = octaves_of(ranks.rank, rule) if causal else last
    starts = ranks.real & (ranks.rank == 0)
    rows, groups = ranks.last + 1 + _rows_before(last, bucket_size, causal), 2 << last  # of each token's document
    if whole:
        octaves = rule.octave_of(length - 1) + 1
        n, group_count = length + _rows_before(octaves - 1, bucket_size, causal), 1 << octaves
    else:
        counts = last.max() + 1, *(torch.where(starts, x, 0).sum(1).max() for x in (rows, groups))
        octaves, n, group_count = torch.stack(counts).tolist()
        n = max(n, 1)  # if all is padding
    first_row, first_group = (torch.where(starts, x, 0).cumsum(1) - x for x in (rows, groups))

    k = torch.arange(octaves, device=last.device)[:, None]
    own, last, rank, first_row, first_group = (x[:, None] for x in (own, last, ranks.rank, first_row, first_group))
    exists = ranks.real[:, None] & (k >= own) & (k <= last)  # [b, octaves, l]
    names = torch.where(exists, first_row + _rows_before(k, bucket_size, causal) + rank, n)

    def at_rows(value: Tensor) -> Tensor:
        rows = torch.full((len(names), n + 1), -1, dtype=torch.int32, device=value.device)
        return rows.scatter_(1, names.flatten(1), value.expand_as(names).flatten(1))[:, :n].contiguous()

    slot = torch.arange(length, dtype=torch.int32, device=last.device)
    here = torch.nn.functional.pad(exists, (0, -length % HASHED)).unflatten(2, (-1, HASHED)).any(3)
    return Layout(
        token=at_rows(torch.where(k == own, slot, -1 - slot)),
        base=at_rows((first_group + (1 << k) - 1).int()),
        names=torch.where(exists, names, -1).int().contiguous(),
        alive=(here.int() << k).sum(1, dtype=torch.int32),
        groups=max(group_count - 1, 1),
    )


def _rows_before(octave: Any, bucket_size: int, causal: bool) -> Any:
    """Rows of a document in front of an octave: without `causal` it has no other."""
    return bucket_size * ((1 << octave) - 1) if causal else 0


BUCKET_TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # by their bytes


def chunk_layout(sequences: Sequences, chunk: int, most: int) -> Layout:
    """Rows of `rule="chunk"`: each token once, and slots of nobody up to a multiple of the chunk."""
    document = sequences.ranks().document
    documents = int(document.max()) + 1 if sequences.segment_ids is not None else 1
    length = document.shape[1]
    slots = torch.arange(-(-length // chunk) * chunk, dtype=torch.int32, device=document.device)
    there = torch.nn.functional.pad(document, (0, slots.shape[0] - length), value=-1)
    return Layout(
        token=slots.clamp(max=length - 1)[None],
        base=torch.where(there >= 0, there * most, -1).int(),
        names=slots[None, None, :length],
        groups=max(documents, 1) * most,
    )


def hashed_rows(buckets: Int[Tensor, "b h r n"], layout: Layout, spec: LSH, most: int | None) -> Rows:
    """The rows of all rounds in the order of their buckets."""
    base = layout.base
    token, group, name = sort_rows(buckets, base, layout.token.expand_as(base).contiguous(), layout.groups, most)
    _, h, rounds, n = buckets.shape
    rule, bounds = spec.rule, (group, group)
    if isinstance(rule, Octaves):
        bounds = row_bounds(group.flatten(2), rule.window, spec.causal)
    return Rows(token, *bounds, name, h * rounds * n, rounds * n, rounds * n, n)


def local_rows(sequences: Sequences, spec: Local) -> Rows:
    """The rows of local attention, alike for all heads; without masks they are kept."""
    if not sequences.masked:
        return _plain_local_rows(sequences.length, spec.rule, spec.causal, sequences.device)
    key = spec.rule, spec.causal, sequences.device
    return worked_out(sequences.masks, key, lambda: _local_rows(sequences.ranks(), spec.rule, spec.causal))


@cached(8)
def _plain_local_rows(length: int, rule: Band | Chunks, causal: bool, device: torch.device) -> Rows:
    return _local_rows(compute_ranks(1, length, device=device), rule, causal)


def _local_rows(ranks: Ranks, rule: Band | Chunks, causal: bool) -> Rows:
    rows = local_window_rows(ranks) if isinstance(rule, Band) else local_chunk_rows(ranks, rule.length)
    token = rows.token.expand_as(rows.group).masked_fill(~rows.query, NOBODY.value)
    group, n = rows.group.contiguous(), token.shape[-1]
    bounds = row_bounds(group, rule.window - 1, causal) if isinstance(rule, Band) else (group, group)
    return Rows(token, *bounds, token, n if token.shape[0] > 1 else 0, 0, n, n)


def reach_of(spec: LSH | Local, tile: int, first: int, end: int) -> Reach:
    """What the tiles of rows [first, end) may see; the chunk of a band is its tile."""
    rule = spec.rule
    if isinstance(rule, Chunks):
        return Reach(first, end, rule.length, rule.before * rule.length, rule.after * rule.length)
    reach = rule.window - isinstance(rule, Band)
    return Reach(first, end, tile, reach, 0 if spec.causal else reach)
