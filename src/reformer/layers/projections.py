"""What all kinds of attention layers share: projections into heads and out of them, positions, the convolution."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from reformer.layers.caches.layer import CacheLayer
from reformer.layers.caches.step import Step
from reformer.layers.convolution import ShortConvolution
from reformer.layers.positions import compute_waves, rotate
from reformer.layers.streams import StreamLinear
from reformer.ops.checks import check_integer
from reformer.ops.ranks import compute_ranks


class Attention(nn.Module):
    """Projections into heads and out of them: what all kinds share."""

    def __init__(
        self, hidden_size: int, num_heads: int, head_dim: int | None, bias: bool, projections: tuple[str, ...]
    ) -> None:
        super().__init__()
        if head_dim is None:
            if hidden_size % num_heads:
                raise ValueError(
                    f"num_heads={num_heads} does not divide hidden_size={hidden_size}; "
                    "choose heads that do, or give head_dim"
                )
            head_dim = hidden_size // num_heads
        self.num_heads, self.head_dim = num_heads, head_dim
        for name in projections:
            self.add_module(name, nn.Linear(hidden_size, num_heads * head_dim, bias=False))
        self.out = StreamLinear(num_heads * head_dim, hidden_size, bias=bias)
        self.convolution: ShortConvolution | None = None

    def _convolve(self, hidden_size: int, conv_size: int, causal: bool) -> None:
        check_integer("conv_size", conv_size, 0)
        if conv_size:
            self.convolution = ShortConvolution(hidden_size, conv_size, causal)

    def _context(
        self,
        x: Float[Tensor, "b l hidden"],
        key_padding_mask: Tensor | None,
        segment_ids: Tensor | None,
        cache: CacheLayer | None,
        step: Step | None,
    ) -> Float[Tensor, "b l hidden"]:
        """What a token is matched by: behind the convolution, where there is one."""
        if self.convolution is None:
            return x
        recent = None if cache is None else cache.recent.get("inputs")
        return self.convolution(x, key_padding_mask, segment_ids, recent, step)

    def _heads(self, projection: nn.Linear, x: Tensor) -> Tensor:
        return projection(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(2))

    def _rotated(
        self,
        vectors: Sequence[Tensor],
        x: Tensor,
        key_padding_mask: Tensor | None,
        segment_ids: Tensor | None,
        position_ids: Tensor | None,
        step: Step | None,
    ) -> list[Tensor]:
        """Queries and keys turned by `position_ids`, or by the ranks; a step's layers share their waves."""
        if position_ids is None:
            position_ids = compute_ranks(x.shape[0], x.shape[1], key_padding_mask, segment_ids, x.device).rank
        positions, dtype = position_ids, vectors[0].dtype

        def waves() -> Any:
            return compute_waves(positions, self.head_dim, dtype)

        shared = waves() if step is None else step.remember(("waves", self.head_dim, dtype), waves)
        return [rotate(vector, shared) for vector in vectors]
