"""Sequences moved along by rank: each token meets the one so many ranks away in its document (`docs/rule.md`).

Whatever padding lies between counts as nothing.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from reformer.ops.ranks import Ranks, compute_ranks
from reformer.ops.shared_masks import worked_out

NOBODY = -1


def slots_at(ranks: Ranks, offset: int) -> Int[Tensor, "b l"]:
    """The slot of the token `offset` ranks behind each in its document; -1 where there is none, and for padding."""
    length = ranks.rank.shape[1]
    number = ranks.real.long().cumsum(1) - 1  # of each token among the real ones of its row
    slots = torch.arange(length, device=number.device).expand_as(number)
    place = torch.zeros(len(number), length + 1, dtype=torch.long, device=number.device)
    place.scatter_(1, torch.where(ranks.real, number, length), slots)
    rank = ranks.rank + offset
    there = ranks.real & (rank >= 0) & (rank <= ranks.last)
    return torch.where(there, place.gather(1, (number + offset).clamp(0, length)), NOBODY)


def masked_slots_at(
    offset: int,
    batch: int,
    length: int,
    key_padding_mask: Bool[Tensor, "b l"] | None,
    segment_ids: Int[Tensor, "b l"] | None,
    device: torch.device,
) -> Int[Tensor, "b l"]:
    """`slots_at` of a batch with masks, worked out once a forward."""
    masks = key_padding_mask, segment_ids
    return worked_out(
        masks, ("slots", offset, device), lambda: slots_at(compute_ranks(batch, length, *masks, device), offset)
    )


def shift(
    x: Float[Tensor, "b ... l d"],
    offset: int,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
) -> Float[Tensor, "b ... l d"]:
    """What stands `offset` ranks behind each token, zeros where nothing does; padding is never read and gets zeros.

    A token has one place to come from and one to go to, so that the gradient is a shift the other way.
    """
    if key_padding_mask is None and segment_ids is None:
        return _slide(x, offset)
    where = x.shape[0], x.shape[-2], key_padding_mask, segment_ids, x.device
    shifted: Tensor = _Shift.apply(x, *(masked_slots_at(by, *where) for by in (offset, -offset)))
    return shifted


def _slide(x: Tensor, offset: int) -> Tensor:
    length = x.shape[-2]
    step = min(abs(offset), length)
    if offset >= 0:
        return torch.nn.functional.pad(x[..., step:, :], (0, 0, 0, step))
    return torch.nn.functional.pad(x[..., : length - step, :], (0, 0, step, 0))


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(target)
        return gather_slots(x, source)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (target,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gather_slots(grad, target), None, None


def gather_slots(x: Float[Tensor, "b ... l d"], slots: Int[Tensor, "b l"]) -> Float[Tensor, "b ... l d"]:
    """The rows of some slots, zeros for -1."""
    index: Any = slots.view(len(slots), *[1] * (x.dim() - 3), -1, 1)
    return x.gather(-2, index.clamp(min=0).expand(x.shape)).masked_fill(index < 0, 0.0)
