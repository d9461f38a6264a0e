"""Batch rows whose tokens stay in caches of their own: what is small stands side by side, what is large stays there.

So a row joins a batch and leaves it without a copy of what it holds, and rows of any lengths share the products of a
step.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer.layers.caches.full import FullCache
from reformer.layers.caches.layer import CacheLayer
from reformer.layers.caches.lsh import LSHCache
from reformer.layers.caches.step import Segment, Step


class RowsOf(CacheLayer):
    """An LSH layer, or one of exact attention, over the caches of its rows; the last tokens of all stand together."""

    def __init__(self, crop_limit: int) -> None:
        super().__init__(crop_limit)
        self.parts: list[LSHCache | FullCache] = []

    @property
    def empty(self) -> bool:
        """See `CacheLayer`."""
        return not self.parts

    def join(self, part: LSHCache | FullCache) -> None:
        """Take over the cache of one more row."""
        if self.recent:
            for name, recent in self.recent.items():
                recent.join(part.recent[name])
        else:
            self.recent = part.recent
        part.recent = {}
        self.parts.append(part)

    def prepare(self, step: Step) -> None:
        """See `CacheLayer`."""
        for part, own in zip(self.parts, rows_of(step), strict=True):
            part.prepare(own)

    def attend(self, *tensors: Float[Tensor, "b h k d"] | Step) -> Float[Tensor, "b h k d"]:
        """Attend from new tokens, each row to its own; the arguments of the rows' kind of layer."""
        *vectors, step = tensors
        assert isinstance(step, Step)
        out = [
            part.attend(*(x[i : i + 1] for x in vectors), own)  # type: ignore[call-arg, arg-type, index]
            for i, (part, own) in enumerate(zip(self.parts, rows_of(step), strict=True))
        ]
        return torch.cat(out)

    def raise_high(self, lengths: Sequence[int]) -> None:
        """See `CacheLayer`."""
        super().raise_high(lengths)
        for part, length in zip(self.parts, lengths, strict=True):
            part.raise_high((length,))

    def select(self, index: Int[Tensor, "rows"]) -> None:
        """Keep these rows, each once."""
        super().select(index)
        self.parts = [self.parts[i] for i in index.tolist()]

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor of the last tokens; what the rows hold stays with them."""
        for recent in self.recent.values():
            recent.change(how)

    def bytes(self) -> int:
        """See `CacheLayer`."""
        return super().bytes() + sum(part.bytes() for part in self.parts)


def rows_of(step: Step) -> tuple[Step, ...]:
    """The new tokens of each row, none of which is padding."""
    return step.remember("rows", lambda: tuple(_row(step, i) for i in range(step.batch)))


def _row(step: Step, i: int) -> Step:
    segments = tuple(
        Segment(start, end, octaves[i : i + 1], lengths[i : i + 1]) for start, end, octaves, lengths in step.segments
    )
    return Step.behind(step.rank[i : i + 1], None, step.before[i : i + 1], step.after[i : i + 1], segments)
