"""The reversible stack: pre-normed attention and feed-forward branches, by the configuration's pattern."""

from torch import Tensor, nn

from reformer.layers.attention import FullAttention, LocalAttention, LSHAttention
from reformer.layers.batch import Batch
from reformer.layers.cross_attention import CrossAttention
from reformer.layers.feed_forward import FeedForward
from reformer.layers.norm import make_norm
from reformer.layers.residual import ResidualSequence
from reformer.layers.reversible import ReversibleSequence
from reformer.settings import ModelSettings


class AttentionBranch(nn.Module):
    """f of a block: norm, attention, dropout."""

    def __init__(self, settings: ModelSettings, kind: str) -> None:
        super().__init__()
        self.norm = make_norm(settings.norm, settings.hidden_size, settings.layer_norm_eps)
        self.attention = make_attention(settings, kind)
        p = settings.attention_output_dropout
        self.dropout = nn.Dropout(settings.hidden_dropout if p is None else p)

    def forward(self, x: Tensor, batch: Batch | None = None, layer: int = 0) -> Tensor:
        added = self.attention(self.norm(x), batch, layer)
        return self.dropout(added) if self.training else added


class DecoderBranch(AttentionBranch):
    """f of a decoder's block: self-attention, then cross-attention to the source behind what it added.

    Both add to the same stream, so that the block stays a pair of branches that is run backwards as any other.
    """

    def __init__(self, settings: ModelSettings, kind: str, source_size: int) -> None:
        super().__init__(settings, kind)
        self.cross_norm = make_norm(settings.norm, settings.hidden_size, settings.layer_norm_eps)
        self.cross_attention = CrossAttention(
            settings.hidden_size,
            source_size,
            settings.num_attention_heads,
            settings.head_width,
            dropout=settings.attention_dropout,
            bias=settings.attention_bias,
        )

    def forward(self, x: Tensor, batch: Batch | None = None, layer: int = 0) -> Tensor:
        added = super().forward(x, batch, layer)
        assert batch is not None
        assert batch.source is not None
        cache = batch.cross_caches[layer] if batch.cross_caches else None
        about = batch.source, batch.source_mask, cache, batch.parts, batch.source_parts
        crossed = self.cross_attention(self.cross_norm(x + added), *about)
        return added + (self.dropout(crossed) if self.training else crossed)


class FeedForwardBranch(nn.Module):
    """g of a block: norm, feed-forward, dropout."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.norm = make_norm(settings.norm, settings.hidden_size, settings.layer_norm_eps)
        self.feed_forward = FeedForward(
            settings.hidden_size, settings.feed_forward_width, settings.hidden_act, settings.chunk_size_feed_forward
        )
        p = settings.feed_forward_dropout
        self.dropout = nn.Dropout(settings.hidden_dropout if p is None else p)

    def forward(self, x: Tensor) -> Tensor:
        added = self.feed_forward(self.norm(x))
        return self.dropout(added) if self.training else added


def make_attention(settings: ModelSettings, kind: str) -> nn.Module:
    """The attention layer of that kind."""
    size = (settings.hidden_size, settings.num_attention_heads, settings.head_width)
    rotary, bias = settings.position_embedding == "rotary", settings.attention_bias
    if kind == "lsh":
        conv_size = settings.conv_size
        return LSHAttention(*size, spec=settings.lsh, conv_size=conv_size, rotary=settings.lsh_rotary, bias=bias)
    if kind == "local":
        return LocalAttention(*size, spec=settings.local, rotary=rotary, bias=bias)
    return FullAttention(
        *size,
        causal=settings.causal,
        dropout=settings.attention_dropout,
        shifted_keys=settings.shifted_keys,
        conv_size=settings.conv_size,
        rotary=rotary,
        bias=bias,
    )


def make_stack(settings: ModelSettings, source_size: int | None = None) -> ReversibleSequence | ResidualSequence:
    """The layers of a model; with `share_layers`, one block for each entry of the pattern.

    With `source_size` those of a decoder that attends to hidden states of that width too.
    """
    pattern, depth = settings.attention_pattern, settings.num_hidden_layers
    distinct = min(len(pattern), depth) if settings.share_layers else depth

    def attention_branch(kind: str) -> AttentionBranch:
        return AttentionBranch(settings, kind) if source_size is None else DecoderBranch(settings, kind, source_size)

    blocks = [(attention_branch(pattern[i % len(pattern)]), FeedForwardBranch(settings)) for i in range(distinct)]
    if settings.residual == "single":
        return ResidualSequence(blocks, depth=depth)
    return ReversibleSequence(blocks, reversible=settings.reversible, depth=depth)
