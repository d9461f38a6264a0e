"""Position embeddings: rotary, axial, learned, sinusoidal, none. All of them go by `position_ids`."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer.ops.transforms import inside_transform, is_batched

ROTARY_BASE = 10_000.0


Waves = tuple[Float[Tensor, "#b l half"], Float[Tensor, "#b l half"]]
"""Cosines and sines."""


def rotate(x: Float[Tensor, "b h l d"], waves: Waves) -> Float[Tensor, "b h l d"]:
    """Turn pairs (i, i + d/2) of queries or keys by their position (Su et al. 2021, arXiv 2104.09864, eq. 34)."""
    return _turned(x, *(table.unsqueeze(1) for table in waves))


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or inside_transform() or is_batched(x):
        return _turned_plainly(x, cos, sin)
    out: Tensor = _Turn.apply(x, cos, sin)
    return out


def _turned_plainly(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _Turn(torch.autograd.Function):
    """`rotate` in one pass over memory; its gradient turns the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.save_for_forward(cos, sin)
        out = x.new_empty(x.shape)
        (first, second), (to_first, to_second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
        torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=to_second).addcmul_(first, sin)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _turned_plainly(tangent, *ctx.saved_tensors)


def compute_waves(position_ids: Int[Tensor, "b l"], width: int, dtype: torch.dtype) -> Waves:
    """Cosines and sines of the angles [b, l, width / 2]; angles in fp64, since positions may be large."""
    frequency = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64, device=position_ids.device) / width)
    angle = position_ids.unsqueeze(-1).double() * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


class SinusoidalPositions(nn.Module):
    """Fixed waves of geometric wavelengths (Vaswani et al. 2017, section 3.5); any length."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, position_ids: Int[Tensor, "b l"], dtype: torch.dtype) -> Float[Tensor, "b l hidden"]:
        cos, sin = compute_waves(position_ids, self.hidden_size, dtype)
        return torch.stack((sin, cos), dim=-1).flatten(-2)


class PositionTable(nn.Embedding):
    """A vector a position; models initialise it unlike the embeddings of tokens."""


class LearnedPositions(nn.Module):
    """One learned vector a position; `max_positions` is a hard limit."""

    def __init__(self, max_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.table = PositionTable(max_positions, hidden_size)

    def forward(self, position_ids: Int[Tensor, "b l"], dtype: torch.dtype) -> Float[Tensor, "b l hidden"]:
        return self.table(position_ids).to(dtype)


class AxialPositions(nn.Module):
    """A grid of positions with one table an axis, concatenated (trax, `AxialPositionalEncoding`).

    Position p stands at row p // shape[1], column p % shape[1] (and so on for more axes). Any length up to the
    product of the shape.
    """

    def __init__(self, shape: Sequence[int], dims: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.tables = nn.ModuleList(PositionTable(size, dim) for size, dim in zip(shape, dims, strict=True))

    def forward(self, position_ids: Int[Tensor, "b l"], dtype: torch.dtype) -> Float[Tensor, "b l hidden"]:
        parts, below = [], prod(self.shape)
        for size, table in zip(self.shape, self.tables, strict=True):
            below //= size
            parts.append(table(position_ids // below % size))
        return torch.cat(parts, dim=-1).to(dtype)
