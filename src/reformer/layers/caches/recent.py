"""The last tokens' vectors of each batch row, by rank: as many as a window needs, and what a crop could bring back."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.layers.caches.step import Step
from reformer.ops.sequences import Sequences


class Recent:
    """A ring: the vector of rank t stands at t % size; padding goes to a place behind the last.

    `past` tokens in front of a new one are what its layer needs, and `crop_limit` more can always be taken back.
    """

    def __init__(self, past: int, crop_limit: int) -> None:
        self.past, self.crop_limit, self.size = past, crop_limit, past + crop_limit
        self.data: Float[Tensor, "b h places d"] | None = None
        self.high: list[int] = []
        """The most tokens that each batch row had: the ring holds those from `high - size` on."""

    def write(self, x: Float[Tensor, "b h k d"], step: Step) -> None:
        """Keep the last of the new tokens."""
        if self.data is None:
            self.data = _make_ring(x, self.size)
        batch, place = step.remember(("places", self.size), lambda: self._places(step))
        self.data[batch, :, place] = x.transpose(1, 2).to(self.data.dtype)

    def _places(self, step: Step) -> tuple[Int[Tensor, "b 1"], Int[Tensor, "b k"]]:
        rank = step.rank
        place = step.slots(rank % self.size, self.size)
        if rank.shape[1] > self.size:  # it may go round
            end = rank[:, -1:] + (1 if step.real is None else step.real[:, -1:].long())
            place = torch.where(rank < end - self.size, self.size, place)
        return torch.arange(len(rank), device=rank.device)[:, None], place

    def before(self, step: Step, dtype: torch.dtype) -> tuple[Float[Tensor, "b h past d"], Bool[Tensor, "b past"]]:
        """The last `past` tokens in front of the new ones, and which of them there are."""
        assert self.data is not None
        batch, place, there = step.remember(("places before", self.past, self.size), lambda: self._places_before(step))
        return self.data[batch, :, place].transpose(1, 2).to(dtype), there

    def _places_before(self, step: Step) -> tuple[Int[Tensor, "b 1"], Int[Tensor, "b past"], Bool[Tensor, "b past"]]:
        rank = step.rank[:, :1] + torch.arange(-self.past, 0, device=step.rank.device)
        return torch.arange(len(rank), device=rank.device)[:, None], rank % self.size, rank >= 0

    def follow(
        self,
        x: Float[Tensor, "b h k d"],
        step: Step,
        compute: Callable[[Float[Tensor, "b h l d"], Sequences], Tensor],
    ) -> Float[Tensor, "b h k d"]:
        """`compute` of new tokens behind those in front of them, as sequences of their own; keeps the new ones."""
        if step.first:
            out = compute(x, step)
        else:
            past, there = self.before(step, x.dtype)
            both = step.remember(("behind", self.past), lambda: _joined(there, step))
            out = compute(torch.cat((past, x), dim=2), both)[:, :, self.past :]
        self.write(x, step)
        return out

    def raise_high(self, lengths: Sequence[int]) -> None:
        """Note the lengths that rows reach."""
        self.high = [max(pair) for pair in zip(self.high or [0] * len(lengths), lengths, strict=True)]

    def earliest(self, row: int) -> int:
        """The shortest length that a batch row can be cropped to, tokens."""
        return 0 if self.high[row] <= self.size else self.high[row] - self.crop_limit

    def crop(self, lengths: Sequence[int]) -> None:
        """Forget the last tokens: what stands behind the last is not read, and will be written over."""
        self.high = [new if high <= self.size else high for high, new in zip(self.high, lengths, strict=True)]

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Replace the tensor."""
        if self.data is not None:
            self.data = how(self.data)

    def select(self, index: Int[Tensor, "rows"]) -> None:
        """Keep the marks of these batch rows."""
        self.high = [self.high[i] for i in index.tolist()] if self.high else []

    def join(self, other: "Recent") -> None:
        """Add the batch rows of another, behind these."""
        assert other.data is not None
        self.data = other.data if self.data is None else torch.cat((self.data, other.data))
        self.high = [*self.high, *other.high]

    def state(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """What `restore` needs: zeros where no token of the row stands."""
        assert self.data is not None
        place = torch.arange(self.size + 1, device=self.data.device)
        length, high = (torch.tensor(x, device=self.data.device)[:, None] for x in (lengths, self.high))
        last = length - 1 - (length - 1 - place) % self.size  # the rank that a place has, if any
        held = (place < self.size) & (last >= 0) & (last >= high - self.size)
        data = self.data.masked_fill(~held[:, None, :, None], 0.0)
        return {"data": data.contiguous(), "high": torch.tensor(self.high)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.data, self.high = state["data"], state["high"].tolist()


def _joined(there: Bool[Tensor, "b past"], step: Step) -> Sequences:
    """The sequences of the last tokens, as far as they are there, and the new ones."""
    new = there.new_ones(step.rank.shape) if step.real is None else step.real
    return Sequences(step.batch, there.shape[1] + step.length, step.device, torch.cat((there, new), dim=1))


@torch.inference_mode(False)  # what is made in inference mode could not be written to outside of it
def _make_ring(like: Float[Tensor, "b h k d"], size: int) -> Float[Tensor, "b h places d"]:
    return like.new_zeros(*like.shape[:2], size + 1, like.shape[3])
