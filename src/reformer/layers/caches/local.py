"""The cache of a local layer: a ring of the last window, and of what a crop could bring back into it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.layers.caches.layer import CacheLayer, make_room
from reformer.layers.caches.step import Step
from reformer.ops.attention import local_attention


class LocalCache(CacheLayer):
    """Keys and values of the last tokens: that of rank t stands at t % size."""

    names = ("keys", "values")

    def __init__(self, crop_limit: int, window: int) -> None:
        super().__init__(crop_limit)
        self.window, self.size = window, window - 1 + crop_limit
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def prepare(self, step: Step) -> None:
        """Nothing to do: a ring has its room."""

    def extend(self, k: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], step: Step) -> None:
        """Keep the last of the new tokens."""
        if self.keys is None or self.values is None:
            self.keys, self.values = make_room(k, self.size), make_room(v, self.size)
        rank = step.rank
        place = step.slots(rank % self.size, self.size)
        if k.shape[2] > self.size:  # a ring may go round
            end = rank[:, -1:] + (1 if step.real is None else step.real[:, -1:].long())
            place = torch.where(rank < end - self.size, self.size, place)
        batch = torch.arange(k.shape[0], device=k.device)[:, None]
        self.keys[batch, :, place], self.values[batch, :, place] = (
            x.transpose(1, 2).to(self.keys.dtype) for x in (k, v)
        )

    def attend(
        self, q: Float[Tensor, "b h k d"], k: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], step: Step
    ) -> Float[Tensor, "b h k d"]:
        """Attend from new tokens to the last `window`, themselves included."""
        if q.shape[2] > self.crop_limit:
            out = self._attend_to_a_piece(q, k, v, step)
            self.extend(k, v, step)
            return out
        self.extend(k, v, step)
        assert self.keys is not None
        assert self.values is not None
        keys, values = (x[:, :, : self.size].to(q.dtype) for x in (self.keys, self.values))
        mask = step.remember(("window", self.window), lambda: self._mask(step.rank.unsqueeze(-1)))
        return F.scaled_dot_product_attention(q, keys, values, mask)

    def _mask(self, rank: Int[Tensor, "b k 1"]) -> Bool[Tensor, "b 1 k size"]:
        age = (rank - torch.arange(self.size, device=rank.device)) % self.size
        return ((age < self.window) & (age <= rank))[:, None]

    def _attend_to_a_piece(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> Tensor:
        """The last tokens in front of a long piece, and the piece, as a sequence of their own."""
        assert self.keys is not None
        assert self.values is not None
        b, _, count, _ = q.shape
        rank = step.rank[:, :1] + torch.arange(1 - self.window, 0, device=q.device)
        batch, place = torch.arange(b, device=q.device)[:, None], rank % self.size
        before_k, before_v = (x[batch, :, place].transpose(1, 2).to(q.dtype) for x in (self.keys, self.values))
        real = step.real if step.real is not None else rank.new_ones(b, count, dtype=torch.bool)
        out = local_attention(
            torch.cat((torch.zeros_like(before_k), q), dim=2),
            torch.cat((before_k, k), dim=2),
            torch.cat((before_v, v), dim=2),
            window=self.window,
            key_padding_mask=torch.cat((rank >= 0, real), dim=1),
        )
        return out[:, :, self.window - 1 :]

    def earliest(self, row: int) -> int:
        """See `CacheLayer`."""
        return 0 if self.high[row] <= self.size else self.high[row] - self.crop_limit

    def crop(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Nothing to do: what stands behind the last token is not seen, and will be written over."""

    def state(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """See `CacheLayer`."""
        return {"keys": self.keys.contiguous(), "values": self.values.contiguous(), "high": torch.tensor(self.high)}  # type: ignore[union-attr]

    def restore(self, state: dict[str, Tensor], lengths: Sequence[int]) -> None:
        """See `CacheLayer`."""
        self.keys, self.values, self.high = state["keys"], state["values"], state["high"].tolist()
