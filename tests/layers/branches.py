"""Branches and sequences that the reversible tests share."""

from typing import Any

import torch
from torch import Tensor, nn

from reformer.layers.attention import FullAttention, LocalAttention, LSHAttention
from reformer.layers.feed_forward import FeedForward
from reformer.layers.reversible import ReversibleSequence

WIDTH = 16


class Branch(nn.Module):
    """Norm, a layer, dropout."""

    def __init__(self, layer: nn.Module, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm, self.layer, self.dropout = nn.LayerNorm(WIDTH), layer, nn.Dropout(dropout)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        normed = self.norm(x.to(self.norm.weight.dtype))
        return self.dropout(self.layer(normed, **kwargs))


def attention(kind: int, dropout: float) -> nn.Module:
    return [
        LocalAttention(WIDTH, 2, window=8, rotary=True, dropout=dropout),
        LSHAttention(WIDTH, 2, window=4, dropout=dropout),
        FullAttention(WIDTH, 2, shifted_keys=True, dropout=dropout),
    ][kind % 3]


def sequence(
    reversible: bool, depth: int = 4, dropout: float = 0.1, chunk: int = 0, dtype: torch.dtype = torch.float64
) -> ReversibleSequence:
    torch.manual_seed(0)
    blocks = [
        (Branch(attention(i, dropout), dropout), Branch(FeedForward(WIDTH, 32, chunk_size=chunk), dropout))
        for i in range(depth)
    ]
    return ReversibleSequence(blocks, reversible=reversible).to(dtype)


def loss_of(y1: Tensor, y2: Tensor) -> Tensor:
    return y1.sin().sum() + (y2 * y1).cos().sum()
