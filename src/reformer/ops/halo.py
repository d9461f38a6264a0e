"""The convolution over a part of a sequence: the tokens in front of it, and behind it, come from other parts.

A token needs the last `size - 1` real tokens of its document, wherever they stand. So each process sends as many of its
part's last ones, and, without `causal`, of its first ones, to all others (a few rows: nothing beside what attention
exchanges), and takes those that lie next to its own.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from reformer.ops.convolution import convolve, tap_offsets
from reformer.ops.exchange import Parts
from reformer.ops.sequences import Sequences


@dataclass(frozen=True, eq=False)
class Halo:
    """Where the tokens around a part come from."""

    ends: Int[Tensor, "b ends"]
    """Slots of this part that others may need: its last real tokens, then its first ones."""
    before: Int[Tensor, "b before"]
    """Of all parts' ends, in their order, those in front of this part."""
    after: Int[Tensor, "b after"]
    """Those behind it."""
    around: Sequences
    """The tokens in front, the part, and those behind."""


def convolve_part(
    x: Float[Tensor, "b part hidden"],
    weight: Float[Tensor, "hidden size"],
    sequences: Sequences,
    parts: Parts,
    *,
    causal: bool,
) -> Float[Tensor, "b part hidden"]:
    """`short_convolution` over this process's part of sequences that several hold."""
    offsets = tap_offsets(weight.shape[1], causal)
    reach = -offsets[0], offsets[-1]
    halo = sequences.remember(("halo", reach), lambda: find_halo(sequences, parts, *reach))
    ends = parts.share_ends(_take(x, halo.ends)).transpose(0, 1).flatten(1, 2)
    around = torch.cat((_take(ends, halo.before), x, _take(ends, halo.after)), dim=1)
    out = convolve(around, weight, halo.around, causal=causal)
    return out.narrow(1, halo.before.shape[1], x.shape[1])


def find_halo(sequences: Sequences, parts: Parts, before: int, after: int) -> Halo:
    """Where so many real tokens in front of a part, and behind it, stand among the ends of all parts."""
    places = _Places(sequences, parts, before, after)
    in_front, further = places.first + places.back, places.last + places.ahead
    own = torch.cat((places.slots(places.last + places.back), places.slots(places.first + places.ahead)), dim=1)
    ends = (own - parts.start).clamp(0, max(parts.lengths[parts.place] - 1, 0))  # what no one asks for may be any
    device, length = sequences.device, parts.lengths[parts.place]
    if not sequences.masked:  # rows are alike: what is not there is left out
        in_front = in_front[:, before - min(before, parts.start) :]
        further = further[:, : sequences.length - parts.own.stop]
        around = Sequences(sequences.batch, in_front.shape[1] + length + further.shape[1], device)
    else:
        mask = (in_front >= 0, places.real[:, parts.own], further < places.counts[:, -1:])
        ids = sequences.segment_ids
        if ids is not None:
            beside = ids.gather(1, places.slots(in_front)), ids.gather(1, places.slots(further))
            ids = torch.cat((beside[0], ids[:, parts.own], beside[1]), dim=1)
        around = Sequences(sequences.batch, before + length + after, device, torch.cat(mask, dim=1), ids)
    return Halo(ends, places.in_last(in_front), places.in_first(further), around)


class _Places:
    """Where real tokens stand, by their numbers in a row."""

    def __init__(self, sequences: Sequences, parts: Parts, before: int, after: int) -> None:
        self.real = sequences.ranks.real.expand(sequences.batch, -1)
        self.before, self.ends, self.length = before, before + after, sequences.length
        seen, device = self.real.long().cumsum(1), sequences.device
        bounds = [seen[:, end - 1] if end else seen.new_zeros(len(seen)) for end in (0, *parts.bounds)]
        self.counts = torch.stack(bounds, dim=1)
        """Real tokens in front of each part, and in all."""
        self.first, self.last = self.counts[:, parts.place, None], self.counts[:, parts.place + 1, None]
        self.back, self.ahead = torch.arange(-before, 0, device=device), torch.arange(after, device=device)
        self._slots = torch.zeros(len(seen), self.length + 1, dtype=torch.long, device=device)
        slots = torch.arange(self.length, device=device).expand_as(self.real)
        self._slots.scatter_(1, torch.where(self.real, seen - 1, self.length), slots)

    def slots(self, numbers: Int[Tensor, "b k"]) -> Int[Tensor, "b k"]:
        """Of tokens that there are; others anywhere."""
        return self._slots.gather(1, numbers.clamp(0, max(self.length - 1, 0)))

    def in_last(self, numbers: Int[Tensor, "b k"]) -> Int[Tensor, "b k"]:
        """Where tokens that are among the last ones of their part stand among all parts' ends."""
        part = self._parts_of(numbers)
        return self._among(part, self.before + numbers - self.counts.gather(1, part + 1))

    def in_first(self, numbers: Int[Tensor, "b k"]) -> Int[Tensor, "b k"]:
        """Where tokens that are among the first ones of their part stand among all parts' ends."""
        part = self._parts_of(numbers)
        return self._among(part, self.before + numbers - self.counts.gather(1, part))

    def _parts_of(self, numbers: Tensor) -> Tensor:
        behind = numbers[:, :, None] >= self.counts[:, None, 1:]
        return behind.sum(2).clamp(max=self.counts.shape[1] - 2)

    def _among(self, part: Tensor, place: Tensor) -> Tensor:
        return part * self.ends + place.clamp(0, max(self.ends - 1, 0))


def _take(x: Float[Tensor, "b l hidden"], slots: Int[Tensor, "b k"]) -> Float[Tensor, "b k hidden"]:
    if not x.shape[1]:  # a part without a slot, of whose ends nothing is asked for; its graph is that of the others
        x = F.pad(x, (0, 0, 0, 1))
    return x.gather(1, slots[..., None].expand(-1, -1, x.shape[2]))
