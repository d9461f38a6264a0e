"""Sequences moved along by rank: each token meets the one so many ranks away in its document (`docs/rule.md`).

Whatever padding lies between counts as nothing.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from reformer.ops.sequences import Sequences
from reformer.ops.transforms import refuse_transforms


def shift(x: Float[Tensor, "b ... l d"], offset: int, sequences: Sequences) -> Float[Tensor, "b ... l d"]:
    """What stands `offset` ranks behind each token, zeros where nothing does; padding is never read and gets zeros.

    A token has one place to come from and one to go to, so that the gradient is a shift the other way.
    """
    if not sequences.masked:
        return _slide(x, offset)
    refuse_transforms("a shift of packed or padded tokens")
    shifted: Tensor = _Shift.apply(x, sequences.slots_at(offset), sequences.slots_at(-offset))
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
