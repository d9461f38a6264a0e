"""The new tokens of one forward over a cache, and how they fall into octaves."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from reformer.ops.sequences import Sequences
from reformer.ops.spec import Octaves


class Segment(NamedTuple):
    """New tokens [start, end) of a batch, all of a batch row in one octave."""

    start: int
    end: int
    octaves: tuple[int, ...]
    """log2 of the buckets, for each batch row."""
    lengths: tuple[int, ...]
    """Real tokens in front of them, for each batch row."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Step(Sequences):
    """Where new tokens stand behind those of a cache; what layers of a kind work out alike is remembered here."""

    rank: Int[Tensor, "b k"]
    """Real tokens in front of each, those of the cache included."""
    before: tuple[int, ...]
    """Real tokens of each batch row in the cache."""
    after: tuple[int, ...]
    """Real tokens of each batch row in the cache, the new ones included."""
    segments: tuple[Segment, ...]

    @classmethod
    def behind(
        cls,
        rank: Int[Tensor, "b k"],
        real: Bool[Tensor, "b k"] | None,
        before: tuple[int, ...],
        after: tuple[int, ...],
        segments: tuple[Segment, ...],
    ) -> "Step":
        """The sequences of new tokens of some ranks; `real` is False for padding, None: there is none."""
        return cls(
            *(*rank.shape, rank.device, real), rank=rank, before=before, after=after, segments=segments
        )  # fmt: skip

    @property
    def real(self) -> Bool[Tensor, "b k"] | None:
        """False for padding; None: there is none."""
        return self.key_padding_mask

    @property
    def first(self) -> bool:
        """Whether nothing is in the cache."""
        return not any(self.before)

    def slots(self, slot: Int[Tensor, "b k"], padding: int) -> Int[Tensor, "b k"]:
        """`slot`, but `padding` for padding."""
        return slot if self.real is None else torch.where(self.real, slot, padding)


def cut_into_octaves(
    before: tuple[int, ...], real: Bool[Tensor, "b k"] | None, count: int, rule: Octaves
) -> tuple[Segment, ...]:
    """Cut `count` new tokens wherever a batch row enters an octave."""
    last = rule.octave_of(max(before, default=0) + count)
    limits = [rule.bucket_size << i for i in range(last)]  # where octave i + 1 starts
    if real is None:
        seen = None
        cuts = {limit - length for length in set(before) for limit in limits if 0 < limit - length < count}
    else:
        seen = np.zeros((len(before), count + 1), np.int64)
        seen[:, 1:] = real.cpu().numpy().cumsum(1)
        seen += np.array(before)[:, None]
        cuts = {int(np.searchsorted(row, limit)) for row in seen for limit in limits if row[0] < limit < row[count]}
    edges = [0, *sorted(cuts - {0, count}), count]
    segments = []
    for start, end in itertools.pairwise(edges):
        lengths = tuple(length + start for length in before) if seen is None else tuple(seen[:, start].tolist())
        octaves = tuple(map(rule.octave_of, lengths))
        segments.append(Segment(start, end, octaves, lengths))
    return tuple(segments)
