"""Which tokens stand in the rings of each batch row, and the rings of the next octave, filled while this one lasts.

An octave has twice the buckets of the one before, and all earlier tokens hashed into them: at its start that would be
one long step. So in the last half of an octave each step puts a few tokens into the coming rings, which are those of
the other set. The set that an octave leaves stays as it was until it is needed again, for a crop may come back to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from reformer.ops.backends import choose_decoder
from reformer.ops.rings import Rings, RingSet, draw_columns, widen_rings

STALE = -1  # the octave of rings that hold nothing
LAYERS_APART = 64
"""Layers begin to draw rotations within so many steps, each at its own."""

COLUMNS_AT_ONCE = 32
"""Columns of rotations that a step draws: all that an octave adds would take longer than the step."""

AT_ONCE = 64
"""Tokens that enter coming rings together: as many as are hashed in one go."""


@dataclass
class Held:
    """What the rings of one batch row hold in one set: the first slots, hashed into an octave's buckets."""

    octave: int = STALE
    slots: int = 0
    highest: int = 0
    """The most slots they held since they were empty: what that pushed out of a ring does not come back."""


class RingKeeper:
    """Keeps the rings of a layer; all numbers of slots are those of a batch row, without what was dropped."""

    def __init__(self, rings: Rings, crop_limit: int) -> None:
        self.rings, self.crop_limit = rings, crop_limit
        self.held = tuple([Held() for _ in range(rings.rows.shape[0])] for _ in rings.sets)

    def of(self, octave: int, row: int) -> Held:
        """What a batch row holds in the set of an octave."""
        return self.held[octave & 1][row]

    def enter(self, octaves: Sequence[int], slots: Sequence[int]) -> None:
        """Bring the rings of each batch row's octave up to its slots."""
        for row, (octave, count) in enumerate(zip(octaves, slots, strict=True)):
            if (held := self.of(octave, row)).octave != octave or held.slots > count:
                self._empty(octave, row)
        self._fill(octaves, slots)

    def look_ahead(self, octaves: Sequence[int], slots: Sequence[int]) -> None:
        """Go on with the rings of the octaves that come, as far as each batch row has come in its own."""
        rule, wanted = self.rings.rule, []
        octave, count = max(zip(octaves, slots, strict=True))
        if octave < rule.last_octave and count - (rule.bucket_size << octave >> 1) >= self.rings.seed % LAYERS_APART:
            draw_columns(self.rings, octave + 1, COLUMNS_AT_ONCE)
        for row, (octave, count) in enumerate(zip(octaves, slots, strict=True)):
            end = rule.bucket_size << octave
            target = 4 * count - 3 * end  # none in the first half of an octave, all at its end
            target = target // AT_ONCE * AT_ONCE
            if octave == rule.last_octave or target <= 0:
                wanted.append(0)
                continue
            if self.of(octave + 1, row).octave != octave + 1:
                self._empty(octave + 1, row)
            wanted.append(target)
        self._fill([octave + 1 for octave in octaves], wanted)

    def note(self, octave: int, row: int, slots: int) -> None:
        """The new tokens of a batch row entered the rings of its octave."""
        held = self.of(octave, row)
        if held.octave == octave:
            held.slots, held.highest = slots, max(held.highest, slots)

    def crop(self, row: int, slots: int) -> list[tuple[int, int, int]]:
        """Octave, start and end of what a batch row's rings have to forget; those that cannot are given up."""
        forget = []
        for held in (each[row] for each in self.held):
            if held.octave == STALE or held.slots <= slots:
                continue
            if held.highest - slots > self.crop_limit:
                held.octave = STALE
                continue
            forget.append((held.octave, slots, held.slots))
            held.slots = slots
        return forget

    def give_up(self, row: int) -> None:
        """Slots of a batch row have other tokens now."""
        for each in self.held:
            each[row] = Held()

    def select(self, index: Int[Tensor, "rows"]) -> None:
        """Keep these batch rows; a row may come several times."""
        chosen = index.tolist()
        self.held = tuple([Held(*vars(each[i]).values()) for i in chosen] for each in self.held)

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor."""
        even, odd = (RingSet(how(each.ring), how(each.count)) for each in self.rings.sets)
        self.rings.sets = even, odd

    def _empty(self, octave: int, row: int) -> None:
        """Make room in the set of an octave for a batch row that holds nothing there."""
        draw_columns(self.rings, octave)
        one_set, held = self.rings.of(octave), self.held[octave & 1]
        held[row] = Held()
        if one_set.padding_bucket < 1 << octave:
            widen_rings(self.rings, octave, [i for i, each in enumerate(held) if each.octave != STALE])
        self.rings.of(octave).count[row] = 0
        held[row] = Held(octave)

    def _fill(self, octaves: Sequence[int], slots: Sequence[int]) -> None:
        alike: dict[tuple[int, int, int], list[int]] = {}
        for row, (octave, end) in enumerate(zip(octaves, slots, strict=True)):
            held = self.of(octave, row)
            if held.octave == octave and held.slots < end:
                alike.setdefault((octave, held.slots, end), []).append(row)
                held.slots, held.highest = end, max(held.highest, end)
        for (octave, start, end), rows in alike.items():
            choose_decoder(self.rings.rows).fill(self.rings, rows, octave, start, end)
