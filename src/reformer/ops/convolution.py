"""Depthwise convolution over a few tokens by rank (`docs/rule.md`, "What a token is matched by").

The taps are added in one order, from the token itself outwards, in fp32 or wider, and the sum is rounded once, so that
a token's bits depend on no length, piece or mask.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from reformer.errors import InputError
from reformer.ops.backends import choose_convolution
from reformer.ops.checks import check_integer
from reformer.ops.sequences import Sequences
from reformer.ops.shift import gather_slots
from reformer.ops.transforms import refuse_transforms


def tap_offsets(size: int, causal: bool) -> list[int]:
    """Where the token of each column of the weight stands, in tokens from the one that is computed."""
    before = size - 1 if causal else size // 2
    return [column - before for column in range(size)]


def short_convolution(
    x: Float[Tensor, "b l hidden"],
    weight: Float[Tensor, "hidden size"],
    *,
    causal: bool = True,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
) -> Float[Tensor, "b l hidden"]:
    """Each channel's sum of `size` tokens of a document, in time order: the last is the token itself.

    Without `causal` the columns of the weight are `size // 2` tokens before, the token, and `(size - 1) // 2` after.
    What would stand outside the document counts as 0; padding is never read and gets 0. Returns the type of `x`.

    Raises InputError for shapes that do not fit.
    """
    return convolve(x, weight, Sequences.of(x, key_padding_mask, segment_ids), causal=causal)


def convolve(
    x: Float[Tensor, "b l hidden"], weight: Float[Tensor, "hidden size"], sequences: Sequences, *, causal: bool
) -> Float[Tensor, "b l hidden"]:
    """`short_convolution` over sequences."""
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[2]:
        raise InputError(
            f"x has shape {list(x.shape)} and weight {list(weight.shape)}; they must be [b, l, hidden] and "
            "[hidden, size]"
        )
    check_integer("size", weight.shape[1], 1)
    refuse_transforms("a short convolution")
    if not x.numel():
        return x * weight.sum(1)
    offsets = tap_offsets(weight.shape[1], causal)
    in_order = sorted(offsets, key=lambda offset: (abs(offset), offset))
    taps = weight.t()[[offsets.index(offset) for offset in in_order]]
    compiled = choose_convolution(x)
    if compiled is not None:
        return compiled.convolve(x, taps, sequences, in_order).to(x.dtype)
    slots: Sequence[Tensor | None] = [None] * len(in_order) * 2
    if sequences.masked:
        slots = [sequences.slots_at(sign * offset) for sign in (1, -1) for offset in in_order]
    out: Tensor = _Convolution.apply(x, taps, in_order, *slots)
    return out


def convolve_recent(
    recent: Float[Tensor, "b places hidden"], rank: Int[Tensor, "b k"], size: int, weight: Float[Tensor, "hidden taps"]
) -> Float[Tensor, "b k hidden"]:
    """`short_convolution`, causal and without a graph, at tokens of some ranks; that of rank t stands at t % size."""
    offsets = list(range(0, -weight.shape[1], -1))
    compiled = choose_convolution(recent)
    if compiled is not None and not torch.compiler.is_compiling():
        return compiled.convolve_recent(recent, rank, size, weight, offsets).to(recent.dtype)
    batch = torch.arange(len(rank), device=rank.device)[:, None]
    out = recent.new_zeros(*rank.shape, recent.shape[2], dtype=torch.promote_types(recent.dtype, torch.float32))
    for offset, factor in zip(offsets, weight.t().flip(0).to(out.dtype), strict=True):
        there = rank + offset
        x = recent[batch, there % size].masked_fill((there < 0)[..., None], 0.0)
        out.addcmul_(x.to(out.dtype), factor)
    return out.to(recent.dtype)


class _Convolution(torch.autograd.Function):
    """`slots` tell where each tap reads, then where each is read from; None: no masks."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, taps: Tensor, offsets: list[int], *slots: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, taps, *slots)  # type: ignore[arg-type]
        ctx.offsets = offsets  # type: ignore[attr-defined]
        return _sum_taps(x, taps, offsets, slots[: len(offsets)]).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Any, ...]:
        x, taps, *slots = ctx.saved_tensors  # type: ignore[attr-defined]
        offsets: list[int] = ctx.offsets  # type: ignore[attr-defined]
        read, read_from = slots[: len(offsets)], slots[len(offsets) :]
        dx = _sum_taps(grad, taps, [-offset for offset in offsets], read_from)
        pairs = (_pair(grad, x, offset, slot) for offset, slot in zip(offsets, read, strict=True))
        dtaps = torch.stack([(mine.to(dx.dtype) * other.to(dx.dtype)).sum((0, 1)) for mine, other in pairs])
        return dx.to(x.dtype), dtaps.to(taps.dtype), None, *(None for _ in slots)


def _sum_taps(x: Tensor, taps: Tensor, offsets: list[int], slots: Sequence[Tensor | None]) -> Tensor:
    """The sum over taps of x at that offset times the tap, in fp32 or wider."""
    out = x.new_zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32))
    for offset, factor, slot in zip(offsets, taps.to(out.dtype), slots, strict=True):
        mine, other = _pair(out, x, offset, slot)
        mine.addcmul_(other.to(out.dtype), factor)
    return out


def _pair(out: Tensor, x: Tensor, offset: int, slots: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tokens of one tensor beside those of another at an offset; zeros, or without masks neither, where none is."""
    if slots is not None:
        return out, gather_slots(x, slots)
    length = x.shape[1]
    size = max(length - abs(offset), 0)
    return out.narrow(1, min(max(-offset, 0), length), size), x.narrow(1, min(max(offset, 0), length), size)
