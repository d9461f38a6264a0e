"""How fast a run goes through its data, where the number of its processes changes on the way; without torch."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Items of the data that each step of a run takes: rows, or micro-batches of examples."""

    items: int
    """Those of a step from here on."""
    past: Sequence[tuple[int, int]] = ()
    """Steps up to which it were others, and how many."""

    def before(self, step: int) -> int:
        """Items that the steps before this one take, or took."""
        taken, begun = 0, 0
        for until, items in self.past:
            if step <= until:
                return taken + (step - begun) * items
            taken, begun = taken + (until - begun) * items, until
        return taken + (step - begun) * self.items

    def locate(self, index: int) -> tuple[int, int]:
        """The step, and the number among all items of the run, of what has an index in a run that never changed."""
        step, place = divmod(index, self.items)
        return step, self.before(step) + place

    def up_to(self, step: int) -> list[tuple[int, int]]:
        """The past of a run that goes on from a step."""
        kept = [(until, items) for until, items in self.past if until < step]
        last = next((items for until, items in self.past if until >= step), self.items)
        if kept and kept[-1][1] == last:
            kept.pop()
        return [*kept, (step, last)]
