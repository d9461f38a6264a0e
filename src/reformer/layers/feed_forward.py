"""The position-wise feed-forward layer, in pieces if asked (Kitaev et al. 2020, section 3, "Chunking")."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reformer.layers.streams import stream_linear
from reformer.ops.checks import check_choice

ACTIVATIONS = ("gelu", "relu", "silu", "swiglu")


class FeedForward(nn.Module):
    """Two linear layers with an activation between them; "swiglu" gates one half of the first by the other.

    With `chunk_size` tokens a piece, the hidden activations of one piece only are alive at a time, in the
    backward too, where each piece is computed once more; 0 computes all tokens at once.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str = "gelu", chunk_size: int = 0) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        self.activation, self.chunk_size = activation, chunk_size
        self.dense_in = nn.Linear(hidden_size, intermediate_size * (2 if activation == "swiglu" else 1))
        self.dense_out = stream_linear(intermediate_size, hidden_size)

    def forward(self, x: Float[Tensor, "b l hidden"]) -> Float[Tensor, "b l hidden"]:
        if not self.chunk_size or x.shape[1] <= self.chunk_size:
            return self._piece(x)
        pieces = x.split(self.chunk_size, dim=1)
        if not torch.is_grad_enabled():
            return torch.cat([self._piece(piece) for piece in pieces], dim=1)
        return torch.cat([checkpoint(self._piece, piece, use_reentrant=False) for piece in pieces], dim=1)

    def _piece(self, x: Tensor) -> Tensor:
        hidden = self.dense_in(x)
        if self.activation == "swiglu":
            value, gate = hidden.chunk(2, dim=-1)
            return self.dense_out(F.silu(gate) * value)
        return self.dense_out(getattr(F, self.activation)(hidden))
