"""The cache of a layer of exact attention: all keys and values."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from reformer.layers.caches.layer import BLOCK, CacheLayer, grow, make_room, room_for, until
from reformer.layers.caches.step import Step

PIECE = 1024  # queries at a time: bounds the mask


class FullCache(CacheLayer):
    """Keys and values by rank; `room` is for tokens that are known to come.

    `recent`: what shifted keys and a convolution need of the last tokens.
    """

    names = ("keys", "values")

    def __init__(self, crop_limit: int, room: int = 0, recent: Mapping[str, int] | None = None) -> None:
        super().__init__(crop_limit, recent)
        self.room, self.span = room, 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def prepare(self, step: Step) -> None:
        """See `CacheLayer`."""
        self.span = -(-max(step.after, default=0) // BLOCK) * BLOCK
        if self.keys is not None and self.values is not None and self.span > self.room:
            self.room = room_for(self.span, self.room)
            self.keys, self.values = grow(self.keys, self.room), grow(self.values, self.room)

    def extend(self, k: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], step: Step) -> None:
        """Keep new tokens."""
        if self.keys is None or self.values is None:
            self.room = room_for(max(self.span, self.room), 0)
            self.keys, self.values = make_room(k, self.room), make_room(v, self.room)
        batch = torch.arange(k.shape[0], device=k.device)[:, None]
        slot = step.slots(step.rank, self.room)
        self.keys[batch, :, slot], self.values[batch, :, slot] = (x.transpose(1, 2).to(self.keys.dtype) for x in (k, v))

    def attend(
        self, q: Float[Tensor, "b h k d"], k: Float[Tensor, "b h k d"], v: Float[Tensor, "b h k d"], step: Step
    ) -> Float[Tensor, "b h k d"]:
        """Attend from new tokens to all before them and to themselves."""
        self.extend(k, v, step)
        assert self.keys is not None
        assert self.values is not None
        keys, values = self.keys[:, :, : self.span].to(q.dtype), self.values[:, :, : self.span].to(q.dtype)
        slots = torch.arange(self.span, device=q.device)
        pieces = [
            F.scaled_dot_product_attention(part, keys, values, (slots <= rank.unsqueeze(-1))[:, None])
            for part, rank in zip(q.split(PIECE, dim=2), step.rank.split(PIECE, dim=1), strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    def fixed(self) -> tuple[Any, ...]:
        """See `CacheLayer`."""
        return *super().fixed(), self.span

    def state(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """See `CacheLayer`."""
        own = {name: until(getattr(self, name)[:, :, : max(lengths)], lengths) for name in self.names}
        return {**super().state(lengths), **own}

    def restore(self, state: dict[str, Tensor], lengths: Sequence[int]) -> None:
        """See `CacheLayer`."""
        super().restore(state, lengths)
        self.room = room_for(max(max(lengths), self.room), 0)
        for name in self.names:
            setattr(self, name, make_room(state[name], self.room))
            getattr(self, name)[:, :, : state[name].shape[2]] = state[name]
