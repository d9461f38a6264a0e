"""What all kinds of cache layers share: memory that grows in blocks, batch rows that are chosen and moved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer.layers.caches.recent import Recent
from reformer.layers.caches.step import Step

BLOCK = 256
"""Room grows by so many tokens at least."""


class CacheLayer(ABC):
    """The state of one attention layer; tensors have the batch in front.

    A layer that has seen nothing has no tensors. `crop_limit`: tokens that can be taken back, whatever came before.
    """

    names: tuple[str, ...] = ()
    """The attributes that are tensors."""

    def __init__(self, crop_limit: int, recent: Mapping[str, int] | None = None) -> None:
        self.crop_limit = crop_limit
        self.recent = {name: Recent(past, crop_limit) for name, past in (recent or {}).items()}
        """How many of the last tokens, by rank, a new one needs in front of it."""

    @abstractmethod
    def prepare(self, step: Step) -> None:
        """Make room for new tokens; all that depends on numbers that the host knows."""

    def fixed(self) -> tuple[Any, ...]:
        """What a captured forward (CUDA graph) takes as it was: places of memory, and numbers of the host."""
        return tuple(x.data_ptr() for x in self._tensors())

    def earliest(self, row: int) -> int:
        """The shortest length that a batch row can be cropped to, tokens."""
        return max((recent.earliest(row) for recent in self.recent.values()), default=0)

    def crop(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Forget the last tokens of each batch row."""
        for recent in self.recent.values():
            recent.crop(after)

    def state(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """What `restore` needs; of a cache that was cropped what it is of one that never saw more, where it can be."""
        parts = {name: recent.state(lengths) for name, recent in self.recent.items()}
        return {f"{name}.{key}": x for name, state in parts.items() for key, x in state.items()}

    def restore(self, state: dict[str, Tensor], lengths: Sequence[int]) -> None:
        """Take over what `state` gave."""
        for name, recent in self.recent.items():
            recent.restore({key: state[f"{name}.{key}"] for key in ("data", "high")})

    @property
    def empty(self) -> bool:
        """Whether nothing was seen yet."""
        return not self._tensors()

    def _tensors(self) -> list[Tensor]:
        kept = [getattr(self, name) for name in self.names] + [recent.data for recent in self.recent.values()]
        return [x for x in kept if x is not None]

    def raise_high(self, lengths: Sequence[int]) -> None:
        """Note the lengths that rows reach."""
        for recent in self.recent.values():
            recent.raise_high(lengths)

    def select(self, index: Int[Tensor, "rows"]) -> None:
        """Keep these batch rows, in this order; a row may come several times."""
        if not self.empty:
            self.change(lambda x: x.index_select(0, index.to(x.device)))
            for recent in self.recent.values():
                recent.select(index)

    def to(self, device: torch.device | str) -> None:
        """Move to a device."""
        if not self.empty:
            self.change(lambda x: x.to(device))

    def change(self, how: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor."""
        for name in self.names:
            setattr(self, name, how(getattr(self, name)))
        for recent in self.recent.values():
            recent.change(how)

    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(x.nbytes for x in self._tensors())


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


def until(x: Float[Tensor, "b h slots ..."], lengths: Sequence[int]) -> Float[Tensor, "b h slots ..."]:
    """A copy with zeros behind the last token of each batch row."""
    behind = torch.arange(x.shape[2], device=x.device) >= torch.tensor(lengths, device=x.device)[:, None]
    return x.masked_fill(behind.view(len(lengths), 1, -1, *[1] * (x.dim() - 3)), 0.0)
