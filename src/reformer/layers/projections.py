"""What all kinds of attention layers share: projections into heads and out of them, positions, the convolution."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reformer.errors import InputError
from reformer.layers.batch import Batch
from reformer.layers.convolution import ShortConvolution
from reformer.layers.positions import rotate
from reformer.layers.streams import stream_linear
from reformer.ops.checks import check_integer
from reformer.ops.sequences import Sequences


class HeadProjections(nn.Module):
    """Projections into heads and out of them."""

    def __init__(
        self, hidden_size: int, num_heads: int, head_dim: int | None, bias: bool, projections: tuple[str, ...]
    ) -> None:
        super().__init__()
        if head_dim is None:
            if hidden_size % num_heads:
                raise InputError(
                    f"num_heads={num_heads} does not divide hidden_size={hidden_size}; "
                    "choose heads that do, or give head_dim"
                )
            head_dim = hidden_size // num_heads
        self.num_heads, self.head_dim = num_heads, head_dim
        for name in projections:
            self.add_module(name, nn.Linear(hidden_size, num_heads * head_dim, bias=False))
        self.out = stream_linear(num_heads * head_dim, hidden_size, bias=bias)

    def _heads(self, projection: nn.Linear, x: Tensor) -> Tensor:
        return projection(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(2))


class SelfAttention(HeadProjections):
    """What layers share whose tokens attend to each other: how they are called, positions, the convolution."""

    def __init__(
        self, hidden_size: int, num_heads: int, head_dim: int | None, bias: bool, projections: tuple[str, ...]
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, bias, projections)
        self.convolution: ShortConvolution | None = None

    def forward(
        self,
        x: Float[Tensor, "b l hidden"],
        batch: Batch | None = None,
        layer: int = 0,
        *,
        key_padding_mask: Bool[Tensor, "b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        position_ids: Int[Tensor, "b l"] | None = None,
        seed: int | None = None,
    ) -> Float[Tensor, "b l hidden"]:
        """Attend, as the layer of that number of a batch, or without one to tokens that the other arguments describe.

        `key_padding_mask` is True for a real token; documents are runs of equal `segment_ids`; `position_ids` are the
        ranks unless given, and used by rotary positions alone; `seed` is that of the rotations of an LSH layer.
        Raises InputError for masks that do not fit.
        """
        if batch is None:
            sequences = Sequences.of(x, key_padding_mask, segment_ids)
            batch, layer = Batch(sequences, position_ids, () if seed is None else (seed,)), 0
        return self._attend(x, batch, layer)

    def _attend(self, x: Tensor, batch: Batch, layer: int) -> Tensor:
        raise NotImplementedError

    def _convolve(self, hidden_size: int, conv_size: int, causal: bool) -> None:
        check_integer("conv_size", conv_size, 0)
        if conv_size:
            self.convolution = ShortConvolution(hidden_size, conv_size, causal)

    def _context(self, x: Float[Tensor, "b l hidden"], batch: Batch, layer: int) -> Float[Tensor, "b l hidden"]:
        """What a token is matched by: behind the convolution, where there is one."""
        if self.convolution is None:
            return x
        recent = batch.caches[layer].recent.get("inputs") if batch.caches else None
        return self.convolution(x, batch.sequences, recent, batch.parts)

    def _rotated(self, batch: Batch, *vectors: Tensor, own: bool = False) -> list[Tensor]:
        """Queries and keys turned by their positions; `own`: those of the tokens that this process holds."""
        waves = batch.waves(self.head_dim, vectors[0].dtype, own)
        return [rotate(vector, waves) for vector in vectors]
