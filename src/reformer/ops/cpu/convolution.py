"""`convolve` of the CPU backend: a depthwise convolution over tokens of a document, one pass over memory.

To `torch.compile` it is one node, and its backward another. Blocks of tokens are the tasks.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from reformer.ops.cpu.convolution_kernels import convolve_block, convolve_ring, differentiate_block
from reformer.ops.cpu.kernels import compute_type, in_kernel_type, kind_of
from reformer.ops.cpu.order import documents_of
from reformer.ops.cpu.tasks import run_tasks
from reformer.ops.sequences import Sequences

BLOCK = 1024
"""Tokens of a task; the gradient of the taps is summed block by block."""

OPTIONS = "Tensor document, bool padded, int[] offsets"


def convolve(x: Tensor, taps: Tensor, sequences: Sequences, offsets: list[int]) -> Tensor:
    """The sum over taps [size, hidden] of x [b, l, hidden] at their offsets, in fp32 or wider."""
    out: Tensor = _convolve_op(x, taps, sequences.document, sequences.key_padding_mask is not None, offsets)
    return out


def convolve_recent(recent: Tensor, rank: Tensor, size: int, weight: Tensor, offsets: list[int]) -> Tensor:
    """`convolve` over a ring [b, places, hidden], in which the token of rank t stands at t % size."""
    recent = in_kernel_type(recent).contiguous()
    out = torch.empty(*rank.shape, recent.shape[2], dtype=compute_type(recent))
    arrays = [_flat(x) for x in (recent, out, weight.to(out.dtype))]
    convolve_ring(*arrays, np.array(offsets), rank.numpy(), size, recent.shape[1], recent.shape[2])
    return out


def _convolve(x: Tensor, taps: Tensor, document: Tensor, padded: bool, offsets: list[int]) -> Tensor:
    x = in_kernel_type(x).contiguous()
    make = torch.zeros if padded else torch.empty
    out = make(x.shape, dtype=compute_type(x))
    source, target, factors = _flat(x), _flat(out), _flat(taps.to(out.dtype))
    sequences, blocks, steps = _slots_and_documents(document), -(-x.shape[1] // BLOCK), np.array(offsets)

    def run(task: int) -> None:
        row, block = divmod(task, blocks)
        slots, document = sequences[row % len(sequences)]
        convolve_block(
            source, target, row * x.shape[1], factors, steps, slots, document, block * BLOCK, BLOCK, x.shape[2]
        )

    run_tasks(len(x) * blocks, run)
    return out


def _differentiate(
    grad: Tensor,
    x: Tensor,
    taps: Tensor,
    document: Tensor,
    padded: bool,
    offsets: list[int],
) -> list[Tensor]:
    x, grad = in_kernel_type(x).contiguous(), in_kernel_type(grad).contiguous()
    make = torch.zeros if padded else torch.empty
    dx = make(x.shape, dtype=compute_type(x))
    blocks = -(-x.shape[1] // BLOCK)
    dtaps = torch.zeros(len(x) * blocks, *taps.shape, dtype=dx.dtype)
    source, slopes, target, parts = _flat(x), _flat(grad), _flat(dx), dtaps.flatten(1).numpy()
    factors, kind = _flat(taps.to(dx.dtype)), kind_of(x)
    sequences, steps = _slots_and_documents(document), np.array(offsets)

    def run(task: int) -> None:
        row, block = divmod(task, blocks)
        slots, document = sequences[row % len(sequences)]
        differentiate_block(
            source, slopes, target, row * x.shape[1], factors, parts[task], steps, slots, document, block * BLOCK,
            BLOCK, x.shape[2], kind,
        )  # fmt: skip

    run_tasks(len(x) * blocks, run)
    return [dx, dtaps.sum(0)]


def _slots_and_documents(document: Tensor) -> list[tuple[Any, Any]]:
    """Slots of real tokens in order, and the document of every slot, for each batch row or once for all."""
    return [(documents_of(row)[0], row) for row in document.numpy()]


def _flat(x: Tensor) -> Any:
    x = x.detach().contiguous()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).view(-1).numpy()


_convolve_op: Any = torch.library.custom_op(
    "reformer::convolve",
    _convolve,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor x, Tensor taps, {OPTIONS}) -> Tensor",
)
_differentiate_op: Any = torch.library.custom_op(
    "reformer::convolve_backward",
    _differentiate,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad, Tensor x, Tensor taps, {OPTIONS}) -> Tensor[]",
)


@_convolve_op.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape, dtype=compute_type(x))


@_differentiate_op.register_fake
def _(grad: Tensor, x: Tensor, taps: Tensor, *_: Any) -> list[Tensor]:
    return [y.new_empty(y.shape, dtype=compute_type(x)) for y in (x, taps)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, taps, document, *options = inputs
    ctx.save_for_backward(x, taps, document)
    ctx.options = options


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: activation checkpointing hands each out a single time
    dx, dtaps = _differentiate_op(grad, *saved, *ctx.options)
    return dx.to(saved[0].dtype), dtaps.to(saved[1].dtype), None, None, None


_convolve_op.register_autograd(_gradients, setup_context=_keep)
