"""Rows that outgrow their memory move to a wider one a few at each step, so that no step waits for all of them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from reformer.layers.caches.layer import room_for

AT_ONCE = 64
"""Slots that move together."""


class WiderRows:
    """The memory that comes, and how many slots stand in it already; the last place of each is for padding."""

    def __init__(self) -> None:
        self.rows: Float[Tensor, "b h more 2 d"] | None = None
        self.moved = 0

    def look_ahead(self, rows: Float[Tensor, "b h slots 2 d"], room: int, filled: Sequence[int]) -> None:
        """Move what is due: nothing until seven eighths of the room are filled, all when it is full.

        What the last row delivers may have yet to come, and what stands behind a shorter batch row's.
        """
        due = min(8 * max(filled) - 7 * room, min(filled) - 1) // AT_ONCE * AT_ONCE
        if due > self.moved:
            if self.rows is None:
                self.rows = _widen(rows, room_for(room + 1, room))
            self._move(rows, due)

    def take_over(self, rows: Float[Tensor, "b h slots 2 d"], room: int) -> Float[Tensor, "b h more 2 d"]:
        """All rows in memory of at least that room, which is exact where nothing had moved."""
        if self.rows is None or self.rows.shape[2] != room + 1:
            self.rows, self.moved = _widen(rows, room), 0
        self._move(rows, rows.shape[2] - 1)
        wider, self.rows, self.moved = self.rows, None, 0
        return wider

    def back_to(self, slots: int) -> None:
        """Slots from there on will have other tokens, and the last in front of them another value."""
        self.moved = min(self.moved, max(slots - 1, 0))

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Replace the tensor."""
        self.rows = None if self.rows is None else how(self.rows)

    def bytes(self) -> int:
        """Memory of the tensor."""
        return 0 if self.rows is None else self.rows.nbytes

    @torch.inference_mode(False)
    def _move(self, rows: Tensor, end: int) -> None:
        assert self.rows is not None
        self.rows[:, :, self.moved : end] = rows[:, :, self.moved : end]
        self.moved = end


@torch.inference_mode(False)
def _widen(rows: Tensor, room: int) -> Tensor:
    return rows.new_empty(*rows.shape[:2], room + 1, *rows.shape[3:])
