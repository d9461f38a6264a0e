"""One sequence over several processes: parts of it become parts of the heads, and back.

Heads are independent of each other, so between layers each process holds a part of the tokens, and inside attention a
part of the heads with all of theirs (Jacobs et al. 2023, "DeepSpeed Ulysses", arXiv 2309.14509). Tensors travel as
[b, l, h, d], in which the parts of one row lie one behind the other.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a sequence, one for each process of a group, in the order of the processes."""

    group: Any
    """The `torch.distributed` process group."""
    lengths: tuple[int, ...]
    """Slots of each part."""
    place: int
    """Which of them is this process's."""

    @property
    def count(self) -> int:
        """Processes."""
        return len(self.lengths)

    @property
    def start(self) -> int:
        """The first slot of this process's part."""
        return sum(self.lengths[: self.place])

    @property
    def own(self) -> slice:
        """The slots of this process's part."""
        return slice(self.start, self.start + self.lengths[self.place])

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where parts end."""
        return tuple(accumulate(self.lengths))

    def heads(self, count: int) -> tuple[int, int]:
        """The first head that this process computes, of so many, and how many those are."""
        return self.place * (count // self.count), count

    def to_heads(self, x: Float[Tensor, "b h part d"]) -> Float[Tensor, "b heads l d"]:
        """All tokens of this process's heads, of this process's tokens of all heads."""
        out: Tensor = _Exchange.apply(x, self, True)
        return out

    def to_parts(self, x: Float[Tensor, "b heads l d"]) -> Float[Tensor, "b h part d"]:
        """The tokens of this process of all heads, of all tokens of its heads."""
        out: Tensor = _Exchange.apply(x, self, False)
        return out

    def gather(self, x: Shaped[Tensor, "b part ..."]) -> Shaped[Tensor, "b l ..."]:
        """What is said of each slot, for all slots; nothing has a gradient."""
        b, rest = x.shape[0], x.shape[2:]
        sizes = [b * length * rest.numel() for length in self.lengths]
        received = x.new_empty(sum(sizes))
        dist.all_to_all_single(
            received, x.flatten().repeat(self.count), sizes, [x.numel()] * self.count, group=self.group
        )
        pieces = zip(received.split(sizes), self.lengths, strict=True)
        return torch.cat([piece.view(b, length, *rest) for piece, length in pieces], dim=1)

    def ask(self, flag: bool, device: torch.device) -> list[bool]:
        """The flags of all processes."""
        own = torch.tensor([[int(flag)]], device=device)
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own, group=self.group)
        return [bool(one) for one in found]

    def share_ends(self, x: Float[Tensor, "b ends hidden"]) -> Float[Tensor, "parts b ends hidden"]:
        """As many rows of each part, for all parts."""
        out: Tensor = _ShareEnds.apply(x, self)
        return out

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all parts.

        Its gradient is as many times that of each part as there are parts: averaged over processes, as data parallel
        training averages, gradients of weights are those of the sum.
        """
        out: Tensor = _Sum.apply(x, self)
        return out


def _to_heads(x: Tensor, parts: Parts) -> Tensor:
    b, h, part, d = x.shape
    heads = h // parts.count
    sent = x.transpose(1, 2).reshape(b, part, parts.count, heads, d).permute(2, 0, 1, 3, 4)
    sizes = [b * length * heads * d for length in parts.lengths]
    received = x.new_empty(sum(sizes))
    dist.all_to_all_single(received, sent.flatten(), sizes, [b * part * heads * d] * parts.count, group=parts.group)
    if b == 1:
        whole = received.view(1, sum(parts.lengths), heads, d)
    else:
        pieces = zip(received.split(sizes), parts.lengths, strict=True)
        whole = torch.cat([piece.view(b, length, heads, d) for piece, length in pieces], dim=1)
    return whole.transpose(1, 2)


def _to_parts(x: Tensor, parts: Parts) -> Tensor:
    b, heads, _, d = x.shape
    by_token = x.transpose(1, 2)
    if b == 1:
        sent = by_token.reshape(-1)
    else:
        sent = torch.cat([piece.reshape(-1) for piece in by_token.split(list(parts.lengths), dim=1)])
    part = parts.lengths[parts.place]
    received = x.new_empty(parts.count, b, part, heads, d)
    sizes = [b * each * heads * d for each in parts.lengths]
    dist.all_to_all_single(received.view(-1), sent, [b * part * heads * d] * parts.count, sizes, group=parts.group)
    return received.permute(1, 2, 0, 3, 4).reshape(b, part, parts.count * heads, d).transpose(1, 2)


class _Exchange(torch.autograd.Function):
    """One way, whose gradient goes the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Parts, to_heads: bool) -> Tensor:
        ctx.parts, ctx.to_heads = parts, to_heads
        return _to_heads(x, parts) if to_heads else _to_parts(x, parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return (_to_parts if ctx.to_heads else _to_heads)(grad, ctx.parts), None, None


class _ShareEnds(torch.autograd.Function):
    """An all-gather, whose gradient goes back to where the rows came from and is summed in the order of the parts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Parts) -> Tensor:
        ctx.parts = parts
        received = x.new_empty(parts.count, *x.shape)
        dist.all_gather_into_tensor(received.view(-1), x.contiguous().view(-1), group=parts.group)
        return received

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        parts, received = ctx.parts, torch.empty_like(grad, memory_format=torch.contiguous_format)
        sizes = [grad[0].numel()] * parts.count
        dist.all_to_all_single(received.view(-1), grad.contiguous().view(-1), sizes, sizes, group=parts.group)
        return received.sum(0), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Parts) -> Tensor:
        ctx.count = parts.count
        summed = x.clone()
        dist.all_reduce(summed, group=parts.group)
        return summed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.count, None
