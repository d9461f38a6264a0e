"""Causal language models of 6 layers, width 512, 8 heads, feed-forward 2,048: ours, the older ones, exact attention.

Each takes tokens [1, l] and returns the loss of predicting the next one. The older ones run with their own defaults
(reformer_pytorch: feed-forward in 100 pieces; transformers: whole, and dropout of .05 in local attention), ours with
feed-forward and loss in pieces of 2,048 tokens.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import reformer

LAYERS, WIDTH, HEADS, VOCABULARY = 6, 512, 8, 259
Loss = Callable[[Tensor], Tensor]
NAMES = ("reformer", "reformer bf16", "reformer_pytorch", "transformers", "exact", "exact, checkpointed")


def build(name: str, length: int) -> tuple[nn.Module, Loss]:
    torch.manual_seed(0)
    if name == "reformer_pytorch":
        peer = reformer_pytorch(length, WIDTH, HEADS)
        return peer, lambda x: next_token_loss(peer(x), x)
    if name == "transformers":
        other = transformers(length, WIDTH, HEADS)
        return other, lambda x: other(x, labels=x).loss
    if name.startswith("exact"):
        exact = Exact(length, checkpointed=name.endswith("checkpointed"))
        return exact, lambda x: next_token_loss(exact(x), x)
    config = reformer.ReformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        chunk_size_feed_forward=2048,
        loss_chunk=2048,
    )
    ours = reformer.ReformerForCausalLM(config)

    def loss(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name.endswith("bf16")):
            return ours(x, labels=x).loss

    return ours, loss


def next_token_loss(logits: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())


def reformer_pytorch(length: int, width: int, heads: int) -> nn.Module:
    """Half of the heads local."""
    from reformer_pytorch import ReformerLM

    return ReformerLM(
        num_tokens=VOCABULARY,
        dim=width,
        depth=LAYERS,
        max_seq_len=length,
        heads=heads,
        bucket_size=64,
        n_hashes=4,
        causal=True,
        n_local_attn_heads=heads // 2,
    )


def transformers(length: int, width: int, heads: int, hash_seed: int | None = None) -> nn.Module:
    """Local and LSH layers in turn."""
    from transformers import ReformerConfig, ReformerModelWithLMHead

    side = 1 << (length.bit_length() - 1) // 2
    other = -(-length // side)
    config = ReformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_attention_heads=heads,
        attention_head_size=width // heads,
        attn_layers=["local", "lsh"] * (LAYERS // 2),
        feed_forward_size=4 * width,
        num_hashes=4,
        hash_seed=hash_seed,
        axial_pos_shape=(side, other),
        axial_pos_embds_dim=(width // 4, width - width // 4),
        max_position_embeddings=side * other,
        is_decoder=True,
        hidden_dropout_prob=0.0,
    )
    return ReformerModelWithLMHead(config)


class Exact(nn.Module):
    """A pre-norm transformer with exact causal attention."""

    def __init__(self, length: int, checkpointed: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(length, WIDTH)
        self.layers = nn.ModuleList(ExactLayer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.tokens(x) + self.positions.weight[: x.shape[1]]
        for layer in self.layers:
            hidden = checkpoint(layer, hidden, use_reentrant=False) if self.checkpointed else layer(hidden)
        return self.head(self.norm(hidden))


class ExactLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm2(x))
