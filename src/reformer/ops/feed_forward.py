"""The feed-forward layer of a reversible block, some tokens at a time, with its gradients in its second run.

The second run of a block wants the layer's output, to recover the block's input, and its backward wants the hidden
activations of that run. One pass over pieces gives both, if the backward hands the output's gradient to the second
run that it asks for. So the layer is computed twice, and the activations of one piece only are ever alive. With
dropout behind the layer something else asks first: then they are kept, or, in pieces of a given size, computed anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from reformer.ops.replay import is_second_run, remembered

CACHED = 1 << 20
"""Hidden activations of a piece on a CPU: they stay in its cache, and in memory that the C library keeps."""

Weights = tuple[Float[Tensor, "wide hidden"], Float[Tensor, " wide"], Float[Tensor, "hidden inner"], Tensor]
"""Weight and bias of the first layer, then of the second."""


@dataclass
class _Errand:
    """What a backward wants of the second run, and what it brings."""

    grad: Tensor | None = None
    wanted: Sequence[bool] = ()
    grads: list[Tensor | None] | None = None
    keeps: bool = False
    """A second run without an errand, since dropout behind the layer asked for it, keeps what the backward needs."""
    hidden: list[Tensor] | None = None


def run_again(x: Float[Tensor, "... hidden"], weights: Weights, activation: str, piece: int) -> Tensor:
    """The layer inside a reversible block [..., hidden], `piece` rows at a time; 0: as many as suit the device.

    Under autocast in its type. Without a second derivative.
    """
    if not piece:
        piece = rows_in_cache(len(weights[0])) if x.device.type == "cpu" else x.shape[:-1].numel()
        errand = remembered(lambda: _Errand(keeps=True))
    else:
        errand = remembered(_Errand)
    out: Tensor = _Again.apply(x, *weights, activation, max(piece, 1), errand)
    return out


def rows_in_cache(wide: int) -> int:
    """Tokens of a piece whose size nobody gave, on a CPU."""
    return max(CACHED // wide, 64)


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        *weights, activation, piece, errand = arguments
        casts = is_autocast(x) and x.dtype != torch.float64  # which autocast leaves alone
        ctx.dtype = torch.get_autocast_dtype(x.device.type) if casts else x.dtype
        ctx.activation, ctx.piece, ctx.errand = activation, piece, errand
        ctx.save_for_backward(x, *weights)
        out = x.new_empty(*x.shape[:-1], len(weights[2]), dtype=ctx.dtype)
        errand.hidden = [] if errand.keeps and is_second_run() and errand.grad is None else None
        errand.grads = _run(ctx, x, weights, out.flatten(0, -2))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        errand = ctx.errand
        errand.grad, errand.wanted = grad, ctx.needs_input_grad[:5]
        x, *weights = ctx.saved_tensors  # here the block runs again, unless something behind the layer has asked for it
        grads = errand.grads or _run(ctx, x, weights, None) or []
        errand.grad = errand.grads = errand.hidden = None
        return *grads, None, None, None


def _run(ctx: Any, x: Tensor, weights: Sequence[Tensor], out: Tensor | None) -> list[Tensor | None] | None:
    """Write the output, if asked, and return the gradients of x and the weights, if the errand holds the output's."""
    if is_autocast(x):  # that of whoever calls; the layer has cast what its own asked for
        with torch.autocast(x.device.type, enabled=False):
            return _run(ctx, x, weights, out)
    w_in, b_in, w_out, b_out = (weight.to(ctx.dtype) for weight in weights)
    rows, errand, sums = x.flatten(0, -2).to(ctx.dtype), ctx.errand, None
    if errand.grad is not None:
        into, x_grad = errand.grad.flatten(0, -2), torch.empty_like(rows) if errand.wanted[0] else None
        wide = torch.promote_types(ctx.dtype, torch.float32)
        wanted = zip(weights, errand.wanted[1:], strict=True)
        sums = [torch.zeros_like(weight, dtype=wide) if asked else None for weight, asked in wanted]
    for start in range(0, len(rows), ctx.piece):
        piece = slice(start, start + ctx.piece)
        if sums is not None and errand.hidden:
            hidden = errand.hidden[start // ctx.piece]
        else:
            hidden = torch.addmm(b_in, rows[piece], w_in.t())
            if errand.hidden is not None:
                errand.hidden.append(hidden)
        active = activate(hidden, ctx.activation)
        if out is not None:
            torch.addmm(b_out, active, w_out.t(), out=out[piece])
        if sums is not None:
            grad = into[piece].to(ctx.dtype)
            _add(sums[2:], grad, active)
            grad = _activation_grad(grad @ w_out, hidden, ctx.activation)
            _add(sums[:2], grad, rows[piece])
            if x_grad is not None:
                torch.mm(grad, w_in, out=x_grad[piece])
    if sums is None:
        return None
    return [
        None if x_grad is None else x_grad.view_as(x).to(x.dtype),
        *(None if total is None else total.to(weight.dtype) for total, weight in zip(sums, weights, strict=True)),
    ]


def _add(sums: "Sequence[Tensor | None]", grad: Tensor, inputs: Tensor) -> None:
    """Add a piece's gradients of a linear layer's weight and bias."""
    weight, bias = sums
    if weight is not None and weight.dtype == grad.dtype:
        weight.addmm_(grad.t(), inputs)
    elif weight is not None:
        weight += grad.t() @ inputs
    if bias is not None:
        bias += grad.sum(0, dtype=bias.dtype)


def is_autocast(x: Tensor) -> bool:
    """Whether autocast is on where a tensor is."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def activate(hidden: Float[Tensor, "... wide"], activation: str) -> Float[Tensor, "... inner"]:
    """The activation of that name; "swiglu" gates one half by the other."""
    if activation == "swiglu":
        value, gate = hidden.chunk(2, dim=-1)
        return F.silu(gate) * value
    active: Tensor = getattr(F, activation)(hidden)
    return active


def _activation_grad(grad: Tensor, hidden: Tensor, activation: str) -> Tensor:
    """The gradient of the hidden activations from that of the activated ones, which is overwritten."""
    ops = torch.ops.aten
    if activation == "swiglu":
        value, gate = hidden.chunk(2, dim=-1)
        return torch.cat((grad * F.silu(gate), ops.silu_backward(grad * value, gate)), dim=-1)
    if activation == "gelu":
        ops.gelu_backward.grad_input(grad, hidden, grad_input=grad)
    elif activation == "silu":
        ops.silu_backward.grad_input(grad, hidden, grad_input=grad)
    else:
        ops.threshold_backward.grad_input(grad, hidden, 0, grad_input=grad)
    return grad
