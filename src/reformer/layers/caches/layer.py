"""What all kinds of cache layers share: memory that grows in blocks, batch rows that are chosen and moved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer.layers.caches.step import Step

BLOCK = 256
"""Room grows by so many tokens at least."""


class CacheLayer(ABC):
    """The state of one attention layer; tensors have the batch in front.

    A layer that has seen nothing has no tensors. `crop_limit`: tokens that can be taken back, whatever came before.
    """

    names: tuple[str, ...] = ()
    """The attributes that are tensors."""

    def __init__(self, crop_limit: int) -> None:
        self.crop_limit = crop_limit
        self.high: list[int] = []  # the most tokens that each batch row had since what is kept was whole

    @abstractmethod
    def prepare(self, step: Step) -> None:
        """Make room for new tokens; all that depends on numbers that the host knows."""

    def fixed(self) -> tuple[Any, ...]:
        """What a captured forward (CUDA graph) takes as it was: places of memory, and numbers of the host."""
        return tuple(getattr(self, name).data_ptr() for name in self.names)

    @abstractmethod
    def earliest(self, row: int) -> int:
        """The shortest length that a batch row can be cropped to, tokens."""

    @abstractmethod
    def crop(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Forget the last tokens of each batch row."""

    @abstractmethod
    def state(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """What `restore` needs."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor], lengths: Sequence[int]) -> None:
        """Take over what `state` gave."""

    @property
    def empty(self) -> bool:
        """Whether nothing was seen yet."""
        return getattr(self, self.names[0], None) is None

    def raise_high(self, lengths: Sequence[int]) -> None:
        """Note the lengths that rows reach."""
        self.high = [max(pair) for pair in zip(self.high or [0] * len(lengths), lengths, strict=True)]

    def select(self, index: Int[Tensor, "rows"]) -> None:
        """Keep these batch rows, in this order; a row may come several times."""
        if not self.empty:
            self.change(lambda x: x.index_select(0, index.to(x.device)))
            self.high = [self.high[i] for i in index.tolist()] if self.high else []

    def to(self, device: torch.device | str) -> None:
        """Move to a device."""
        if not self.empty:
            self.change(lambda x: x.to(device))

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor."""
        for name in self.names:
            setattr(self, name, how(getattr(self, name)))

    def bytes(self) -> int:
        """Memory of the tensors."""
        return 0 if self.empty else sum(getattr(self, name).nbytes for name in self.names)


def room_for(tokens: int, room: int) -> int:
    """The next size of memory that has `room`: by half, in whole blocks."""
    wanted = max(tokens, room + room // 2) if room else tokens
    return -(-wanted // BLOCK) * BLOCK


@torch.inference_mode(False)  # what is made in inference mode could not be written to outside of it
def make_room(like: Float[Tensor, "b h k d"], room: int) -> Float[Tensor, "b h more d"]:
    """Zeros for `room` tokens, and a place for padding behind them."""
    return like.new_zeros(*like.shape[:2], room + 1, like.shape[3])


@torch.inference_mode(False)
def grow(x: Float[Tensor, "b h room ..."], room: int) -> Float[Tensor, "b h more ..."]:
    """More room along the third axis, zeros; the last place, for padding, stays the last."""
    wider = x.new_zeros(*x.shape[:2], room + 1, *x.shape[3:])
    kept = x.shape[2] - 1
    wider[:, :, :kept] = x[:, :, :kept]
    return wider
