"""The residual layers of the plain Transformer: one stream, ordinary autograd (Vaswani et al. 2017; pre-normed)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from reformer.layers.blocks import Block, BlockCall, Streams, call_block
from reformer.layers.streams import stream_type


class ResidualBlock(Block):
    """y = x + f(x), z = y + g(y)."""


class _Call(BlockCall):
    def run(self, block: Block, streams: Streams) -> Streams:
        x = streams[0] + block.f(streams[0], **self.f_kwargs)
        x = x + block.g(x)
        return x, x


class ResidualSequence(nn.Module):
    """x = x + f(x), x = x + g(x), for each pair; called as `ReversibleSequence` is, with its one stream twice.

    `depth` cycles the pairs (shared weights).
    """

    def __init__(self, blocks: Iterable[tuple[nn.Module, nn.Module]], *, depth: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(f, g) for f, g in blocks)
        self.depth = len(self.blocks) if depth is None else depth

    def forward(
        self,
        x1: Float[Tensor, "b l hidden"],
        x2: Float[Tensor, "b l hidden"],
        f_kwargs: Sequence[Mapping[str, Any]],
        on_block: Callable[[Tensor, Tensor], None] | None = None,
    ) -> tuple[Float[Tensor, "b l hidden"], Float[Tensor, "b l hidden"]]:
        """Run all blocks over x1; both outputs are the stream."""
        x = x1.to(stream_type(x1.dtype))
        for i in range(self.depth):
            x, _ = call_block(self.blocks[i % len(self.blocks)], _Call((x, x), f_kwargs[i], {}))
            if on_block is not None:
                on_block(x, x)
        return x, x
