"""Which keys a query may see: rows in sorted order and a pattern over them (`docs/rule.md`, "Neighbours").

Every rule, LSH or local, ends in the same form: a sequence of *rows* (a token, its group, whether it is a query
there or a key only), of which a query row sees those of its own group that lie within a halo around its tile.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor

from reformer.ops.ranks import NO_DOCUMENT, Ranks
from reformer.ops.spec import Chunks, Octaves

NOBODY = NO_DOCUMENT  # the group of a row that nobody sees and that sees nobody

_AFTER_ALL = 1 << 30  # sorts behind every group


@dataclass(frozen=True)
class Pattern:
    """Geometry and masks over sorted rows."""

    tile: int
    """Query rows that are computed together."""
    before: int
    """Rows in front of a tile that its queries may see."""
    after: int
    """Rows behind a tile that its queries may see."""
    causal: bool
    """Later tokens are masked."""
    include_self: bool
    """A token sees itself (local attention) or not (LSH attention)."""
    window: int | None = None
    """The farthest row of its group that a query sees, in rows; None: all rows of the halo (chunk rules)."""
    ring: bool = False
    """The first tile sees the last one as the tile before it."""


@dataclass(frozen=True)
class SortedRows:
    """Rows in sorted order; `h` may be 1, for all heads alike."""

    token: Int[Tensor, "b h rows"]
    """The slot of each row's token."""
    group: Int[Tensor, "b h rows"]
    """Rows see rows of the same group; `NOBODY` for padding."""
    query: Bool[Tensor, "b h rows"]
    """True where the row is a query, False where it is a key only."""
    rounds: int
    """Hash rounds; rows of round i are those from i * rows / rounds on."""
    name: Int[Tensor, "b h rows"] | None = None
    """A number for each row that is the same in every round."""
    place: Integer[Tensor, "b h r names"] | None = None
    """The position of each name in each round: tells whether another round offers the same pair."""


@dataclass(frozen=True)
class OctaveRows:
    """Rows of `rule="bucket"` before hashing: each token in its own octave and, as a key, in all later ones."""

    token: Int[Tensor, "b n"]
    octave: Int[Tensor, "b n"]
    base: Int[Tensor, "b n"]
    """The first group of the row's document and octave; its bucket is added to it."""
    query: Bool[Tensor, "b n"]
    exists: Bool[Tensor, "b n"]
    """False for rows that only fill a shorter batch row up."""


def octaves_of(rank: Tensor, rule: Octaves) -> Tensor:
    """`Octaves.octave_of` of each rank."""
    return torch.frexp((rank // rule.bucket_size).double()).exponent.long().clamp(max=rule.last_octave)


def octave_rows(ranks: Ranks, rule: Octaves, causal: bool) -> OctaveRows:
    """Lay out the rows of `rule="bucket"`: (octave, time) order, the groups of a document after the previous one's.

    Key-only rows are not trimmed to the last w of a bucket: there are at most 2l of them as it is.
    """
    last = octaves_of(ranks.last, rule)
    own = octaves_of(ranks.rank, rule) if causal else last
    octaves = torch.arange(int(last.max()) + 1 if last.numel() else 1, device=last.device)[:, None]
    exists = ranks.real[:, None] & (octaves >= own[:, None]) & (octaves <= last[:, None])  # [b, octaves, l]
    starts = ranks.real & (ranks.rank == 0)
    groups = torch.where(starts, 2 << last, 0)  # 1 + 2 + 4 + ... + 2**last, and one over
    document_base = (groups.cumsum(1) - groups).gather(1, _first_slot(ranks, starts))

    length = ranks.real.shape[1]
    flat = exists.flatten(1)
    count = max(int(flat.sum(1).max()), 1)
    index = flat.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    token, octave = index % length, index // length
    return OctaveRows(
        token=token,
        octave=octave,
        base=document_base.gather(1, token) + (1 << octave) - 1,
        query=octave == own.gather(1, token),
        exists=flat.gather(1, index),
    )


def octave_counts(ranks: Ranks, rule: Octaves, causal: bool) -> Int[Tensor, "3"]:
    """Octaves, rows of the batch row that has most, and more than any group: what the sizes of a layout are."""
    last = octaves_of(ranks.last, rule)
    starts = ranks.real & (ranks.rank == 0)
    rows = ranks.last + 1 + rows_before(last, rule.bucket_size, causal)  # of each token's document
    sums = (torch.where(starts, x, 0).sum(1).amax() for x in (rows, 2 << last))
    return torch.stack((torch.where(starts, last, 0).amax() + 1, *sums))


def rows_before(octave: Any, bucket_size: int, causal: bool) -> Any:
    """Rows of a document in front of an octave: octave k has all tokens of rank below `bucket_size * 2**k`.

    Without `causal` a document has one octave.
    """
    return bucket_size * ((1 << octave) - 1) if causal else 0


def _first_slot(ranks: Ranks, starts: Tensor) -> Tensor:
    """The slot of the first token of each token's document."""
    slots = torch.arange(starts.shape[1], device=starts.device).expand_as(starts)
    return torch.where(starts, slots, 0).cummax(1).values


def row_buckets(buckets: Integer[Tensor, "b h r k l"], rows: OctaveRows) -> Integer[Tensor, "b h r n"]:
    """The bucket of every row: its token's when hashed into the buckets of the row's octave."""
    b, h, r, _, length = buckets.shape
    index = (rows.octave * length + rows.token)[:, None, None].expand(b, h, r, -1)
    return buckets.flatten(3).gather(3, index)


def sort_bucket_rows(buckets: Integer[Tensor, "b h r n"], rows: OctaveRows, name_rows: bool) -> SortedRows:
    """Sort rows by (document, octave, bucket, time); groups of different rounds differ."""
    b, h, rounds, n = buckets.shape
    exists = rows.exists[:, None, None]
    group = torch.where(exists, rows.base[:, None, None] + buckets, _AFTER_ALL).int()
    group, order = group.sort(dim=-1, stable=True)  # time within a group, since rows stand in time order
    each_round = torch.arange(rounds, device=buckets.device, dtype=torch.int32)[:, None]
    group = torch.where(group == _AFTER_ALL, NOBODY, group * rounds + each_round).int()
    expand = (b, h, rounds, n)
    token = rows.token[:, None, None].expand(expand).gather(3, order)
    query = (rows.query & rows.exists)[:, None, None].expand(expand).gather(3, order)
    return SortedRows(
        token.int().flatten(2),
        group.flatten(2),
        query.flatten(2),
        rounds,
        *(_names_and_places(order) if name_rows else ()),
    )


def sort_chunk_rows(
    buckets: Integer[Tensor, "b h r l"], ranks: Ranks, chunk_length: int, name_rows: bool
) -> SortedRows:
    """Sort tokens by (document, bucket, time) in each round; padding, to a multiple of the chunk too, comes last."""
    b, h, rounds, length = buckets.shape
    document = ranks.document.expand(b, -1)
    most = int(buckets.max()) + 1 if buckets.numel() else 1
    key = torch.where(document[:, None, None] >= 0, document[:, None, None] * most + buckets, _AFTER_ALL).int()
    missing = -length % chunk_length
    key = torch.nn.functional.pad(key, (0, missing), value=_AFTER_ALL)
    document = torch.nn.functional.pad(document, (0, missing), value=NOBODY)
    order = key.sort(dim=-1, stable=True).indices
    group = document[:, None, None].expand(b, h, rounds, -1).gather(3, order).int().flatten(2)
    token = torch.where(order < length, order, 0).int().flatten(2)
    named = _names_and_places(order) if name_rows else ()
    return SortedRows(token, group, group != NOBODY, rounds, *named)


def _names_and_places(order: Integer[Tensor, "b h r n"]) -> tuple[Tensor, Tensor]:
    rounds, n = order.shape[2:]
    position = torch.arange(rounds * n, device=order.device).view(rounds, n).expand_as(order)
    place = torch.empty_like(order).scatter_(3, order, position)
    return order.flatten(2), place


def local_window_rows(ranks: Ranks) -> SortedRows:
    """Real tokens in their order, padding behind them: a window then goes by rank."""
    order = ranks.real.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    group = ranks.document.gather(1, order).int()[:, None]
    return SortedRows(order.int()[:, None], group, group != NOBODY, rounds=1)


def local_chunk_rows(ranks: Ranks, chunk_length: int) -> SortedRows:
    """Slots in their order, padding where it stands, up to a multiple of the chunk (Hugging Face's local layers)."""
    length = ranks.real.shape[1]
    missing = -length % chunk_length
    group = torch.nn.functional.pad(ranks.document, (0, missing), value=NOBODY).int()[:, None]
    slots = torch.arange(length + missing, device=group.device, dtype=torch.int32)
    token = torch.where(slots < length, slots, 0).expand_as(group)
    return SortedRows(token, group, group != NOBODY, rounds=1)


def bucket_pattern(window: int, causal: bool) -> Pattern:
    """The last `window` rows of the group; without `causal` as many behind too."""
    return Pattern(_tile(window), window, 0 if causal else window, causal, include_self=False, window=window)


def local_window_pattern(window: int, causal: bool) -> Pattern:
    """The last `window` tokens, self included; without `causal` `window - 1` on each side."""
    reach = window - 1
    return Pattern(_tile(window), reach, 0 if causal else reach, causal, include_self=True, window=reach)


def chunk_pattern(rule: Chunks, causal: bool, include_self: bool) -> Pattern:
    """The own chunk and those around it, on a ring."""
    m = rule.length
    return Pattern(m, rule.before * m, rule.after * m, causal, include_self, ring=True)


def _tile(window: int) -> int:
    return min(max(window, 32), 128)
