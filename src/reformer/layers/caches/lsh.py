"""The cache of an LSH layer: queries and values by slot, and rings of each bucket's last slots.

Rings follow from the rows (`ring_keeper`); a row that no ring can come back to is dropped once the number of buckets
has reached its limit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer.layers.caches.layer import CacheLayer, room_for, until
from reformer.layers.caches.ring_keeper import STALE, RingKeeper
from reformer.layers.caches.step import Step
from reformer.layers.caches.wider_rows import WiderRows
from reformer.ops.backends import choose_decoder
from reformer.ops.rings import Rings, make_rings, write_rows
from reformer.ops.spec import LSH, Octaves


class LSHCache(CacheLayer):
    """Decoding is exact: a token's neighbours are the last `window` of its bucket (`rule="bucket"`)."""

    def __init__(
        self, crop_limit: int, spec: LSH, seed: int, room: int = 0, recent: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(crop_limit, recent)
        assert isinstance(spec.rule, Octaves)
        self.spec, self.rule, self.seed = spec, spec.rule, seed
        self.room = room if spec.rule.num_buckets is None else 0  # with a limit memory is bounded anyway
        self.foreseen = room_for(self.room, 0)
        self.rings: Rings | None = None
        self.wider = WiderRows()
        self.keeper: RingKeeper | None = None
        self.octaves: list[int] = []  # that each batch row is in
        self.high: list[int] = []  # the most tokens that each batch row had since its rings were whole, or ever
        self.dropped: list[int] = []  # rank of slot 0, for each batch row
        self.offset: Int[Tensor, "b 1"] | None = None  # the same, where the rows are

    @property
    def empty(self) -> bool:
        """See `CacheLayer`."""
        return self.rings is None

    def extend(self, q: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], step: Step) -> None:
        """Keep the first tokens, which `lsh_attention` attended to."""
        tokens = max(step.after)
        lazy = q.device.type == "cpu"  # memory that nobody writes to costs nothing there
        self._allocate(q, tokens * 5 // 4 + 1 if lazy and tokens > self.room else tokens)
        assert self.rings is not None
        if step.real is None:
            behind = int(self.spec.successor_values)
            self.rings.rows[:, :, : q.shape[2], 0] = q
            self.rings.rows[:, :, : q.shape[2] - behind, 1] = v[:, :, behind:]
        else:
            write_rows(self.rings, q, v, step.slots(step.rank, self.rings.padding_slot))
        self._enter([self.rule.octave_of(length) for length in step.after], step.after)
        self._look_ahead(step.after)

    def _allocate(self, like: Tensor, tokens: int) -> None:
        self.room = room_for(max(tokens, self.room), 0)
        self.rings = make_rings(like, self.spec, self.seed, self.room, self.rule.window + self.crop_limit)
        self.keeper = RingKeeper(self.rings, self.crop_limit)
        self.octaves, self.dropped = [STALE] * like.shape[0], [0] * like.shape[0]
        with torch.inference_mode(False):
            self.offset = torch.zeros(like.shape[0], 1, dtype=torch.long, device=like.device)

    def prepare(self, step: Step) -> None:
        """See `CacheLayer`."""
        if self.rings is None:
            return
        wanted = max(self._kept(step.after))
        limited = self._reached_limit(step.before)
        if wanted > self.room and limited:
            self._drop(step.before)
            wanted = max(self._kept(step.after)) * 4 // 3  # room for a while, lest each step drops
        if wanted > self.room:
            self.room = room_for(wanted, self.room)
            self.rings.rows = self.wider.take_over(self.rings.rows, self.room)
        elif not limited and self.room > self.foreseen:  # else no more are to come
            self.wider.look_ahead(self.rings.rows, self.room, self._kept(step.before))
        self._enter(step.segments[0].octaves, step.before)
        self._look_ahead(step.before)

    def attend(self, q: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], step: Step) -> Float[Tensor, "b h k d"]:
        """Attend from new tokens to the last of their buckets."""
        assert self.rings is not None
        assert self.keeper is not None
        assert self.offset is not None
        decode = choose_decoder(self.rings.rows).decode
        slot = step.slots(step.rank - self.offset, self.rings.padding_slot)
        pieces, behind = [], [*(segment.lengths for segment in step.segments[1:]), step.after]
        for (start, end, octaves, lengths), after in zip(step.segments, behind, strict=True):
            self._enter(octaves, lengths)
            part = slice(start, end)
            pieces.append(decode(self.rings, q[:, :, part], v[:, :, part], slot[:, part], octaves))
            self._note(octaves, after)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    def fixed(self) -> tuple[Any, ...]:
        """See `CacheLayer`."""
        assert self.rings is not None
        sets = [self.rings.of(octave).ring for octave in {octave & 1 for octave in self.octaves}]
        places = [x.data_ptr() for x in (self.rings.rows, self.rings.rotations, *sets)]
        return *super().fixed(), *places, tuple(self.octaves), tuple(self.dropped)

    def _kept(self, lengths: Sequence[int]) -> list[int]:
        """Slots of each batch row that lengths come to."""
        return [length - dropped for length, dropped in zip(lengths, self.dropped, strict=True)]

    def _enter(self, octaves: Sequence[int], lengths: Sequence[int]) -> None:
        """Have all tokens of each batch row in the rings of its octave."""
        assert self.keeper is not None
        assert self.rings is not None
        self.keeper.enter(octaves, self._kept(lengths))
        if list(octaves) != self.octaves:  # else they stay in place, for a captured step
            self.octaves, self.rings.rotations = list(octaves), self.rings.drawn

    def _look_ahead(self, lengths: Sequence[int]) -> None:
        """Have some tokens in the rings of the octaves to come; behind a limit of buckets there are none."""
        assert self.keeper is not None
        self.keeper.look_ahead(self.octaves, self._kept(lengths))

    def _note(self, octaves: Sequence[int], lengths: Sequence[int]) -> None:
        """New tokens entered the rings of their octaves."""
        assert self.keeper is not None
        for row, slots in enumerate(self._kept(lengths)):
            self.keeper.note(octaves[row], row, slots)

    def _reached_limit(self, lengths: Sequence[int]) -> bool:
        """Whether every ring has its final number of buckets, and no crop leads back from there."""
        earliest = [self.rule.octave_of(max(length - self.crop_limit, 0)) for length in lengths]
        return all(octave == self.rule.last_octave for octave in (*earliest, *self.octaves))

    def _drop(self, lengths: Sequence[int]) -> None:
        """Keep the rows that some ring holds, in their order, aligned at the last of every head."""
        assert self.rings is not None
        assert self.offset is not None
        assert self.keeper is not None
        last, rows = self.rule.last_octave, self.rings.rows
        current = self.rings.of(last)
        ring = current.ring
        _, h, _, _, size = ring.shape
        for b, length in enumerate(lengths):
            filled = length - self.dropped[b]
            held = torch.arange(size, device=ring.device) < current.count[b, :, :, :-1, None]
            held &= ring[b, :, :, :-1] < filled  # what was cropped may still stand there
            live = torch.zeros(h, filled + 1, dtype=torch.bool, device=ring.device)
            live.scatter_(1, torch.where(held, ring[b, :, :, :-1], filled).flatten(1).long(), True)
            live = live[:, :filled]
            kept = int(live.sum(1).max())
            order = live.to(torch.int8).argsort(dim=1, stable=True)[:, filled - kept :]
            rows[b, :, :kept] = rows[b].gather(1, order[..., None, None].expand(-1, -1, *rows.shape[3:]))
            highest = self.keeper.of(last, b).highest + self.dropped[b]
            self.high[b] = max(highest, self.high[b]) if self.dropped[b] else highest
            self.dropped[b] = length - kept
            self.octaves[b] = STALE
            self.keeper.give_up(b)
        self.wider.back_to(0)
        self.offset.copy_(torch.tensor(self.dropped, device=ring.device)[:, None])

    def earliest(self, row: int) -> int:
        """See `CacheLayer`."""
        own = self.high[row] - self.crop_limit if self.dropped and self.dropped[row] else 0
        return max(own, super().earliest(row))

    def raise_high(self, lengths: Sequence[int]) -> None:
        """See `CacheLayer`."""
        super().raise_high(lengths)
        if self.keeper is not None:  # a replay of a captured forward enters tokens too
            self._note([self.rule.octave_of(max(length - 1, 0)) for length in lengths], lengths)
        self.high = [max(pair) for pair in zip(self.high or [0] * len(lengths), lengths, strict=True)]

    def crop(self, before: Sequence[int], after: Sequence[int]) -> None:
        """See `CacheLayer`: out of the rings where they still hold what comes back into a window."""
        super().crop(before, after)
        if self.keeper is None or self.rings is None:
            return
        self.wider.back_to(min(self._kept(after)))
        alike: dict[tuple[int, int, int], list[int]] = {}
        for row, slots in enumerate(self._kept(after)):
            for forget in self.keeper.crop(row, slots):
                alike.setdefault(forget, []).append(row)
        for (octave, start, end), rows in alike.items():
            choose_decoder(self.rings.rows).forget(self.rings, rows, octave, start, end)

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """See `CacheLayer`."""
        super().change(how)
        assert self.rings is not None
        assert self.keeper is not None
        assert self.offset is not None
        self.rings.rows, self.offset = how(self.rings.rows), how(self.offset)
        self.wider.change(how)
        self.keeper.change(how)
        for name in ("rotations", "drawn"):
            setattr(self.rings, name, getattr(self.rings, name).to(self.rings.rows.device))
        self.rings.by_column = None

    def select(self, index: Int[Tensor, "rows"]) -> None:
        """See `CacheLayer`."""
        super().select(index)
        if self.keeper is not None:
            self.keeper.select(index)
        self.octaves, self.dropped, self.high = (
            [values[i] for i in index.tolist()] if values else [] for values in (self.octaves, self.dropped, self.high)
        )

    def bytes(self) -> int:
        """See `CacheLayer`."""
        if self.rings is None:
            return super().bytes()
        rings = sum(each.ring.nbytes + each.count.nbytes for each in self.rings.sets)
        return super().bytes() + self.rings.rows.nbytes + self.wider.bytes() + rings

    def state(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """See `CacheLayer`: rows suffice, since rings follow from them. The last delivers what has yet to come: 0."""
        assert self.rings is not None
        filled = [length - dropped for length, dropped in zip(lengths, self.dropped, strict=True)]
        rows = until(self.rings.rows[:, :, : max(filled)], filled)
        if self.spec.successor_values:
            rows[..., 1, :] = until(rows[..., 1, :], [count - 1 for count in filled])
        high = [
            top if dropped else length for top, dropped, length in zip(self.high, self.dropped, lengths, strict=True)
        ]
        return {
            **super().state(lengths),
            "rows": rows,
            "dropped": torch.tensor(self.dropped),
            "high": torch.tensor(high),
        }

    def restore(self, state: dict[str, Tensor], lengths: Sequence[int]) -> None:
        """See `CacheLayer`."""
        super().restore(state, lengths)
        rows, dropped = state["rows"], state["dropped"].tolist()
        self._allocate(rows[..., 0, :], rows.shape[2])
        assert self.rings is not None
        assert self.offset is not None
        self.rings.rows[:, :, : rows.shape[2]] = rows
        self.dropped, self.high = dropped, state["high"].tolist()
        self.offset.copy_(torch.tensor(dropped)[:, None])
