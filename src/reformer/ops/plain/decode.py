"""Decoding by PyTorch operations: new tokens enter their rings and attend to what stands in front of them there."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from reformer.ops.hashing import hash_octaves
from reformer.ops.plain.backend import normalise_keys
from reformer.ops.rings import Rings, RingSet, write_rows

MOST_AT_ONCE = 1 << 14
"""Slots that enter emptied rings together; bounds the memory of their sort."""


def fill(rings: Rings, batch: Sequence[int], octave: int, start: int, end: int) -> None:
    """Put the slots from `start` to `end` of some batch rows, which follow those that are there, into their rings."""
    chosen, rows = rings.of(octave), _index(rings, batch)
    for first in range(start, end, MOST_AT_ONCE):
        last = min(first + MOST_AT_ONCE, end)
        buckets = hash_into(rings, rings.drawn, rings.rows[rows, :, first:last, 0], [octave] * len(batch))
        slot = torch.arange(first, last, device=rows.device).expand(len(batch), -1)
        if len(batch) == len(chosen.ring):
            _enter(chosen.ring, chosen.count, buckets, slot)
            continue
        ring, count = chosen.ring[rows], chosen.count[rows]
        _enter(ring, count, buckets, slot)
        chosen.ring[rows], chosen.count[rows] = ring, count


def forget(rings: Rings, batch: Sequence[int], octave: int, start: int, end: int) -> None:
    """Take the last tokens of some batch rows, those in slots from `start` to `end`, out of their rings."""
    chosen, rows = rings.of(octave), _index(rings, batch)
    buckets = hash_into(rings, rings.drawn, rings.rows[rows, :, start:end, 0], [octave] * len(batch))
    chosen.count[rows] = chosen.count[rows].scatter_add(3, buckets, torch.full_like(buckets, -1, dtype=torch.int32))


def _index(rings: Rings, batch: Sequence[int]) -> Tensor:
    return torch.tensor(batch, dtype=torch.long, device=rings.rows.device)


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
    most = rings.size - rings.rule.window  # that may enter before the first of them attends
    pieces = [_decode_block(rings, *part, octaves) for part in zip(q.split(most, 2), slot.split(most, 1), strict=True)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def _decode_block(rings: Rings, q: Tensor, slot: Tensor, octaves: Sequence[int]) -> Tensor:
    padding, hashed = (slot == rings.padding_slot)[:, None, None], hash_into(rings, rings.rotations, q, octaves)
    turns = sorted({octave & 1 for octave in octaves})
    slots = []
    for turn in turns:
        chosen = rings.sets[turn]
        others = padding if len(turns) == 1 else padding | _of_other_turn(octaves, turn, slot.device)
        buckets = torch.where(others, chosen.padding_bucket, hashed)
        place = _enter(chosen.ring, chosen.count, buckets, slot)
        slots.append(_candidates(rings, chosen, buckets, place))
    if len(turns) == 2:
        slots = [torch.where(_of_other_turn(octaves, 0, slot.device), slots[1], slots[0])]
    return _attend(rings, q, slots[0])


def _of_other_turn(octaves: Sequence[int], turn: int, device: torch.device) -> Bool[Tensor, "b 1 1 1"]:
    """The batch rows whose rings are in the other set."""
    return torch.tensor([octave & 1 != turn for octave in octaves], device=device)[:, None, None, None]


@torch.compiler.disable  # it sets the precision of products, which no graph can
def hash_into(
    rings: Rings, rotations: Tensor, q: Float[Tensor, "b h k d"], octaves: Sequence[int]
) -> Integer[Tensor, "b h r k"]:
    """Buckets of tokens, each batch row hashed into as many as its octave has."""
    distinct = sorted(set(octaves))
    buckets = hash_octaves(q, rotations, distinct, rings.rule.factor_from)
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


def _candidates(rings: Rings, chosen: RingSet, buckets: Tensor, place: Tensor) -> Int[Tensor, "b h k candidates"]:
    """Slots of the last `window` tokens before each in its bucket, of all rounds; -1 for none."""
    size, window = rings.size, rings.rule.window
    number = place.unsqueeze(-1) - torch.arange(1, window + 1, device=place.device)
    index = buckets.unsqueeze(-1) * size + number % size
    slots = chosen.ring.flatten(3).gather(3, index.flatten(3)).view_as(index)
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
