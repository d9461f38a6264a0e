"""What decoding keeps of an LSH layer: rows by slot, and of every bucket a ring of its last slots.

The neighbours of a new token are the last `window` tokens of its bucket in each round (`docs/rule.md`), so a ring of
slots a bucket finds them at a cost that does not depend on how much went before. Octaves take turns on two sets of
rings, so that those of the next can be filled while those of this one are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer.ops.hashing import columns_for, draw_rotations
from reformer.ops.spec import LSH, Octaves

VECTOR = 16
"""Columns of rotations come in multiples of it."""


@dataclass
class RingSet:
    """The rings of even octaves, or of odd ones; batch rows may be in different ones."""

    ring: Int[Tensor, "b h r buckets size"]
    """Slots of the last tokens of a bucket: the token that came as number i stands at i % size."""
    count: Int[Tensor, "b h r buckets"]
    """Tokens of a bucket so far."""

    @property
    def padding_bucket(self) -> int:
        """The bucket of padding."""
        return self.ring.shape[3] - 1


@dataclass
class Rings:
    """Tensors of one layer. The last slot and the last bucket are where padding is written to; nobody reads them."""

    rows: Float[Tensor, "b h slots 2 d"]
    """Queries, which are the keys too, and what each delivers; side by side, since they are read together."""
    sets: tuple[RingSet, RingSet]
    """Of even and of odd octaves."""
    rotations: Float[Tensor, "h r d columns"]
    spec: LSH
    seed: int
    """The seed that the rotations are drawn from."""
    size: int
    """Slots of a ring."""
    drawn: Float[Tensor, "h r d more"]
    """The rotations of the octave to come too; `rotations` stay where they are while an octave lasts."""
    columns: int = 0
    """Columns that were drawn; behind them are zeros."""
    by_column: Tensor | None = None
    """What was drawn as the CPU's kernels take it for many tokens at once, once it was asked for."""

    @property
    def rule(self) -> Octaves:
        """How tokens fall into buckets."""
        assert isinstance(self.spec.rule, Octaves)
        return self.spec.rule

    def of(self, octave: int) -> RingSet:
        """The set that an octave's rings are in."""
        return self.sets[octave & 1]

    @property
    def padding_slot(self) -> int:
        """The slot of padding."""
        return self.rows.shape[2] - 1


@torch.inference_mode(False)  # what is made in inference mode could not be written to outside of it
def make_rings(like: Float[Tensor, "b h l d"], spec: LSH, seed: int, slots: int, size: int) -> Rings:
    """Room for `slots` tokens, whose rings hold `size` of a bucket; one bucket as yet."""
    b, h, _, d = like.shape
    even, odd = (_empty_set(like, (b, h, spec.rounds, 2, size)) for _ in range(2))
    dtype = torch.promote_types(like.dtype, torch.float32)
    nothing = torch.zeros(h, spec.rounds, d, VECTOR, dtype=dtype, device=like.device)
    return Rings(
        rows=like.new_empty(b, h, slots + 1, 2, d),
        sets=(even, odd),
        rotations=nothing,
        spec=spec,
        seed=seed,
        size=size,
        drawn=nothing,
    )


def _empty_set(like: Tensor, shape: tuple[int, ...]) -> RingSet:
    """Rings of nobody: what stands in them is not read."""
    ring = torch.empty(shape, dtype=torch.int32, device=like.device)
    return RingSet(ring, torch.zeros(shape[:-1], dtype=torch.int32, device=like.device))


@torch.inference_mode(False)
def widen_rings(rings: Rings, octave: int, keep: Sequence[int]) -> None:
    """Room for an octave's buckets in its set, all empty but those of the batch rows `keep`."""
    b, h = rings.rows.shape[:2]
    chosen, buckets = rings.of(octave), 1 << octave
    _, _, rounds, old, size = chosen.ring.shape
    index, kept = torch.tensor(keep, dtype=torch.long, device=rings.rows.device), min(old - 1, buckets)
    ring, count = chosen.ring[index, :, :, :kept], chosen.count[index, :, :, :kept]
    chosen.ring, chosen.count = ring, count  # the old ones go before the new ones come
    wide = _empty_set(rings.rows, (b, h, rounds, buckets + 1, size))
    wide.ring[index, :, :, :kept], wide.count[index, :, :, :kept] = ring, count
    chosen.ring, chosen.count = wide.ring, wide.count


@torch.inference_mode(False)
def draw_columns(rings: Rings, octave: int, most: int | None = None) -> None:
    """Have the rotations of octaves up to that one, or `most` columns of them more.

    Zeros stand behind them up to a whole number of vectors.
    """
    columns = columns_for(range(octave + 1), rings.rule.factor_from)
    if columns <= rings.columns:
        return
    columns = columns if most is None else min(columns, rings.columns + most)
    heads, rounds, width = rings.rotations.shape[:3]
    known = rings.drawn[..., : rings.columns]
    drawn = draw_rotations(rings.seed, heads, rounds, width, columns, rings.spec.share_rotations, rings.columns)
    padded = torch.nn.functional.pad(drawn, (0, -columns % VECTOR))
    rings.drawn = torch.cat((known, padded.to(known.device, known.dtype)), dim=-1)
    rings.columns, rings.by_column = columns, None


def write_rows(
    rings: Rings, q: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], slot: Int[Tensor, "b k"]
) -> None:
    """Write new tokens to their slots, and their values to those that deliver them.

    With successor values that is the slot before; a first token's value goes where padding goes.
    """
    batch, rows = torch.arange(q.shape[0], device=q.device)[:, None], rings.rows
    if not rings.spec.successor_values:
        rows[batch, :, slot] = torch.stack((q, v), dim=3).transpose(1, 2).to(rows.dtype)
        return
    first_or_padding = (slot == 0) | (slot == rings.padding_slot)
    rows[batch, :, slot, 0] = q.transpose(1, 2).to(rows.dtype)
    rows[batch, :, torch.where(first_or_padding, rings.padding_slot, slot - 1), 1] = v.transpose(1, 2).to(rows.dtype)
