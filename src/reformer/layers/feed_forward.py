"""The position-wise feed-forward layer, in pieces if asked (Kitaev et al. 2020, section 3, "Chunking")."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.checkpoint import checkpoint

from reformer.layers.streams import stream_linear
from reformer.ops.checks import check_choice
from reformer.ops.feed_forward import activate, is_autocast, run_again
from reformer.ops.replay import is_remembering, remembered

ACTIVATIONS = ("gelu", "relu", "silu", "swiglu")


class FeedForward(nn.Module):
    """Two linear layers with an activation between them; "swiglu" gates one half of the first by the other.

    With `chunk_size` tokens a piece, the hidden activations of one piece only are alive at a time, in the
    backward too, where each piece is computed once more; 0 computes all tokens at once. Inside a reversible block
    the second run gives the gradients, so that a piece is computed twice (`ops/feed_forward.py`).
    """

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str = "gelu", chunk_size: int = 0) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        self.activation, self.chunk_size = activation, chunk_size
        self.dense_in = nn.Linear(hidden_size, intermediate_size * (2 if activation == "swiglu" else 1))
        self.dense_out = stream_linear(intermediate_size, hidden_size)

    def forward(self, x: Float[Tensor, "b l hidden"]) -> Float[Tensor, "b l hidden"]:
        if is_remembering() and remembered(lambda: self._is_plain(x)):
            weights = (self.dense_in.weight, self.dense_in.bias, self.dense_out.weight, self.dense_out.bias)
            return run_again(x, weights, self.activation, self.chunk_size * x.shape[0])
        if not self.chunk_size or x.shape[1] <= self.chunk_size:
            return self._piece(x)
        pieces = x.split(self.chunk_size, dim=1)
        if not torch.is_grad_enabled():
            return torch.cat([self._piece(piece) for piece in pieces], dim=1)
        return torch.cat([checkpoint(self._piece, piece, use_reentrant=False) for piece in pieces], dim=1)

    def _piece(self, x: Tensor) -> Tensor:
        return self.dense_out(activate(self.dense_in(x), self.activation))

    def _is_plain(self, x: Tensor) -> bool:
        """Whether the layers are their weights and nothing more: no adapters, hooks, quantized or sharded weights."""
        layers, casts = (self.dense_in, self.dense_out), is_autocast(x)
        return not _has_any_global_hook() and all(
            type(layer) is nn.Linear
            and "forward" not in layer.__dict__
            and not layer._forward_hooks
            and not layer._forward_pre_hooks
            and not layer._backward_hooks
            and not layer._backward_pre_hooks
            and all(
                type(p) is nn.Parameter and p.device == x.device and (casts or p.dtype == x.dtype)
                for p in (layer.weight, layer.bias)
            )
            for layer in layers
        )
