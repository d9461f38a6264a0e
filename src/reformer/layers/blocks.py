"""A pair of branches as a module of its own, and how a stack calls it.

What wraps modules (FSDP2, accelerate's device maps) acts where a module is called, on what it is called with. FSDP2
casts all tensors there, in containers and dataclasses too, to the type of its policy, and would round the streams; so
a block is called with a plain object that holds them. accelerate moves whatever has `to`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Kwargs = Mapping[str, Any]
Streams = tuple[Tensor, Tensor]


class BlockCall:
    """One call of a block: the streams in front of it, what its branches take too, and the streams behind it."""

    behind: Streams

    def __init__(self, streams: Streams, f_kwargs: Kwargs, g_kwargs: Kwargs) -> None:
        self.streams, self.f_kwargs, self.g_kwargs = streams, f_kwargs, g_kwargs

    def to(self, device: Any, **_: Any) -> "BlockCall":
        """The same call, on a device."""
        x1, x2 = self.streams
        self.streams = x1.to(device), x2.to(device)
        self.f_kwargs, self.g_kwargs = _moved(self.f_kwargs, device), _moved(self.g_kwargs, device)
        return self

    def run(self, block: "Block", streams: Streams) -> Streams:
        """The streams behind the block; checkpointing may ask for them twice."""
        raise NotImplementedError


class Block(nn.Module):
    """The branches f and g of one layer."""

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        super().__init__()
        self.f, self.g = f, g

    def forward(self, call: BlockCall, gate: Tensor | None = None) -> tuple[BlockCall, Tensor | None]:
        """Run the call; hooks see the gates in front of the block and behind it (`call_block`)."""
        call.behind = call.run(self, call.streams if gate is None else _Pass.apply(gate, *call.streams))
        return call, None if gate is None else _Behind.apply(*call.behind)


def call_block(block: nn.Module, call: BlockCall) -> Streams:
    """The streams behind a block that is called as a module.

    FSDP2 gathers weights when the gradient of what a module returned is there, and scatters gradients when that of
    what it was given is. Under its hooks the streams go through two gates, tensors without a dimension that it sees.
    """
    gate = None
    if block._forward_pre_hooks and torch.is_grad_enabled():
        gate = call.streams[0].new_zeros((), requires_grad=True)
    call, gate = block(call, gate)
    return call.behind if gate is None else _Pass.apply(gate, *call.behind)


class _Pass(torch.autograd.Function):
    """The streams, whose gradients are the gate's too: zero, but there."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, x1: Tensor, x2: Tensor) -> Streams:
        ctx.set_materialize_grads(False)
        ctx.gate = gate.dtype, gate.device
        return x1.view_as(x1), x2.view_as(x2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        dtype, device = ctx.gate
        return torch.zeros((), dtype=dtype, device=device), *grads


class _Behind(torch.autograd.Function):
    """A gate behind streams: its gradient is there before theirs."""

    @staticmethod
    def forward(ctx: Any, y1: Tensor, y2: Tensor) -> Tensor:
        return y1.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[None, None]:
        return None, None


def _moved(kwargs: Kwargs, device: Any) -> dict[str, Any]:
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in kwargs.items()}
