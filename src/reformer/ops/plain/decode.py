"""Decoding by PyTorch operations: new tokens enter their rings and attend to what stands in front of them there."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from reformer.ops.hashing import hash_octaves
from reformer.ops.plain.backend import normalise_keys
from reformer.ops.rings import Rings, write_rows

MOST_AT_ONCE = 1 << 14
"""Slots that enter emptied rings together; bounds the memory of their sort."""


def fill(rings: Rings, batch: Int[Tensor, "rows"], log2_buckets: int, slots: int) -> None:
    """Put the first `slots` slots of some batch rows into their rings, which are empty."""
    octaves = [log2_buckets] * len(batch)
    for start in range(0, slots, MOST_AT_ONCE):
        end = min(start + MOST_AT_ONCE, slots)
        buckets = hash_into(rings, rings.rows[batch, :, start:end, 0], octaves)
        slot = torch.arange(start, end, device=batch.device).expand(len(batch), -1)
        ring, count = rings.ring[batch], rings.count[batch]
        _enter(ring, count, buckets, slot)
        rings.ring[batch], rings.count[batch] = ring, count


def forget(rings: Rings, batch: Int[Tensor, "rows"], log2_buckets: int, start: int, end: int) -> None:
    """Take the last tokens of some batch rows, those in slots from `start` to `end`, out of their rings."""
    buckets = hash_into(rings, rings.rows[batch, :, start:end, 0], [log2_buckets] * len(batch))
    rings.count[batch] = rings.count[batch].scatter_add(3, buckets, torch.full_like(buckets, -1, dtype=torch.int32))


def decode(
    rings: Rings,
    q: Float[Tensor, "b h k d"],
    v: Float[Tensor, "b h k d"],
    slot: Int[Tensor, "b k"],
    octaves: Sequence[int],
) -> Float[Tensor, "b h k d"]:
    """Attend from new tokens to those of their buckets; `octaves` has log2 of the buckets of each batch row.

    What padding gets has no meaning.
    """
    write_rows(rings, q, v, slot)
    most = rings.ring.shape[4] - rings.rule.window  # that may enter before the first of them attends
    pieces = [_decode_block(rings, *part, octaves) for part in zip(q.split(most, 2), slot.split(most, 1), strict=True)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def _decode_block(rings: Rings, q: Tensor, slot: Tensor, octaves: Sequence[int]) -> Tensor:
    padding = (slot == rings.padding_slot)[:, None, None]
    buckets = torch.where(padding, rings.padding_bucket, hash_into(rings, q, octaves))
    place = _enter(rings.ring, rings.count, buckets, slot)
    return _attend(rings, q, _candidates(rings, buckets, place))


@torch.compiler.disable  # it sets the precision of products, which no graph can
def hash_into(rings: Rings, q: Float[Tensor, "b h k d"], octaves: Sequence[int]) -> Integer[Tensor, "b h r k"]:
    """Buckets of tokens, each batch row hashed into as many as its octave has."""
    distinct = sorted(set(octaves))
    buckets = hash_octaves(q, rings.rotations, distinct, rings.rule.factor_from)
    if len(distinct) == 1:
        return buckets[:, :, :, 0].long()
    return torch.stack([buckets[b, :, :, distinct.index(octave)] for b, octave in enumerate(octaves)]).long()


def _enter(ring: Tensor, count: Tensor, buckets: Tensor, slot: Tensor) -> Integer[Tensor, "b h r k"]:
    """Write slots to the rings of their buckets; returns the number of each token in its bucket."""
    size, trash = ring.shape[4], ring.shape[3] - 1
    place = count.gather(3, buckets) + _earlier(buckets)
    count.scatter_add_(3, buckets, torch.ones_like(place))
    where = buckets
    if buckets.shape[3] > size:  # a ring may go round
        where = torch.where(place < count.gather(3, buckets) - size, trash, buckets)
    ring.flatten(3).scatter_(3, where * size + place % size, slot[:, None, None].int().expand_as(buckets))
    return place


def _earlier(buckets: Integer[Tensor, "b h r k"]) -> Integer[Tensor, "b h r k"]:
    """How many new tokens of the same bucket stand in front of each."""
    if buckets.shape[3] == 1:
        return torch.zeros_like(buckets, dtype=torch.int32)
    ordered, order = buckets.sort(dim=3, stable=True)
    index = torch.arange(buckets.shape[3], device=buckets.device, dtype=torch.int32)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    start = torch.where(first, index, 0).cummax(3).values
    return torch.empty_like(start).scatter_(3, order, index - start)


def _candidates(rings: Rings, buckets: Tensor, place: Tensor) -> Int[Tensor, "b h k candidates"]:
    """Slots of the last `window` tokens before each in its bucket, of all rounds; -1 for none."""
    size, window = rings.ring.shape[4], rings.rule.window
    number = place.unsqueeze(-1) - torch.arange(1, window + 1, device=place.device)
    index = buckets.unsqueeze(-1) * size + number % size
    slots = rings.ring.flatten(3).gather(3, index.flatten(3)).view_as(index)
    slots = torch.where(number >= 0, slots, -1).permute(0, 1, 3, 2, 4).flatten(3)
    if not rings.spec.once:
        return slots
    slots = slots.sort(-1).values
    again = slots[..., 1:] == slots[..., :-1]
    return torch.cat((slots[..., :1], slots[..., 1:].masked_fill(again, -1)), -1)


def _attend(rings: Rings, q: Tensor, slots: Int[Tensor, "b h k candidates"]) -> Tensor:
    """Softmax over the candidates; a token that has none gets 0."""
    b, h, all_slots = rings.rows.shape[:3]
    head = torch.arange(b * h, device=q.device).view(b, h, 1, 1) * all_slots
    rows = rings.rows.flatten(0, 2).index_select(0, (slots.clamp(min=0) + head).flatten())
    keys, values = rows.view(*slots.shape, 2, -1).unbind(-2)
    with torch.autocast(q.device.type, enabled=False):
        keys = normalise_keys(keys)
        scores = (keys @ (q.to(keys.dtype) * rings.spec.scale).unsqueeze(-1)).squeeze(-1)
        scores = scores.masked_fill(slots < 0, -torch.inf)
        p = (scores - scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)).exp()
        out = (p.unsqueeze(-2) @ values.to(p.dtype)).squeeze(-2) / p.sum(-1, keepdim=True)
    return out.masked_fill(~(slots >= 0).any(-1, keepdim=True), 0.0).to(q.dtype)
