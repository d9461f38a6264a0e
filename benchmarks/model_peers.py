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
        return _reformer_pytorch(length)
    if name == "transformers":
        return _transformers(length)
    if name.startswith("exact"):
        exact = Exact(length, checkpointed=name.endswith("checkpointed"))
        return exact, lambda x: next_token_loss(exact(x), x)
    config = reformer.ReformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        local_window=128,
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


def _reformer_pytorch(length: int) -> tuple[nn.Module, Loss]:
    from reformer_pytorch import ReformerLM

    model = ReformerLM(
        num_tokens=VOCABULARY,
        dim=WIDTH,
        depth=LAYERS,
        max_seq_len=length,
        heads=HEADS,
        bucket_size=64,
        n_hashes=4,
        causal=True,
        n_local_attn_heads=HEADS // 2,
    )
    return model, lambda x: next_token_loss(model(x), x)


def _transformers(length: int) -> tuple[nn.Module, Loss]:
    from transformers import ReformerConfig, ReformerModelWithLMHead

    side = 1 << (length.bit_length() - 1) // 2
    config = ReformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        attention_head_size=WIDTH // HEADS,
        attn_layers=["local", "lsh"] * (LAYERS // 2),
        feed_forward_size=4 * WIDTH,
        num_hashes=4,
        axial_pos_shape=(side, length // side),
        axial_pos_embds_dim=(WIDTH // 4, WIDTH - WIDTH // 4),
        max_position_embeddings=length,
        is_decoder=True,
        hidden_dropout_prob=0.0,
    )
    model = ReformerModelWithLMHead(config)
    return model, lambda x: model(x, labels=x).loss


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
