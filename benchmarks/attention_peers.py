"""Attention operations and layers, ours and others', each as its users run it.

A contender is a function that runs a forward; operations take [1, h, l, d], layers [1, l, h * d].
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import reformer
from reformer.ops.attention import local_attention

Forward = Callable[[], Tensor]
Contender = tuple[Forward, list[Tensor]]
"""A forward, and the tensors that its backward fills."""


def build(name: str, length: int, rounds: int, heads: int, width: int, window: int, dtype: torch.dtype) -> Contender:
    torch.manual_seed(0)
    if name.endswith("layer"):
        x = torch.randn(1, length, heads * width, dtype=dtype, requires_grad=True)
        layer = _layer(name, length, rounds, heads, width, window).to(dtype)
        return (lambda: layer(x)), [x, *layer.parameters()]
    q, v = (torch.randn(1, heads, length, width, dtype=dtype).requires_grad_() for _ in range(2))
    return _operation(name, q, v, rounds, window), [q, v]


def _operation(name: str, q: Tensor, v: Tensor, rounds: int, window: int) -> Forward:
    length = q.shape[2]
    if name in ("bucket", "chunk"):
        size = {"window" if name == "bucket" else "chunk_length": window}
        options: dict[str, Any] = {"rule": name, "num_hashes": rounds, **size}
        return lambda: reformer.lsh_attention(q, v, **options)
    if name == "plain":
        return lambda: reformer.lsh_attention(q, v, num_hashes=rounds, window=window, backend="plain")
    if name == "sdpa":
        return lambda: F.scaled_dot_product_attention(q, q, v, is_causal=True)
    if name == "local":
        return lambda: local_attention(q, q, v, window=window)
    if name == "reformer_pytorch":
        from reformer_pytorch import LSHAttention

        attention = LSHAttention(bucket_size=window, n_hashes=rounds, causal=True)
        missing = -length % (2 * window)  # it takes multiples of two buckets only
        return lambda: attention(*(F.pad(x.flatten(0, 1), (0, 0, 0, missing)) for x in (q, v)))[0]
    raise ValueError(f"no operation {name!r}")


def _layer(name: str, length: int, rounds: int, heads: int, width: int, window: int) -> torch.nn.Module:
    hidden = heads * width
    if name == "bucket layer":
        return reformer.LSHAttention(hidden, heads, num_hashes=rounds, window=window)
    if name == "transformers layer":
        from transformers import ReformerConfig
        from transformers.models.reformer.modeling_reformer import LSHSelfAttention, ReformerSelfOutput

        config = ReformerConfig(
            hidden_size=hidden,
            num_attention_heads=heads,
            attention_head_size=width,
            num_hashes=rounds,
            lsh_attn_chunk_length=window,
            is_decoder=True,
            num_buckets=None,
            max_position_embeddings=length,
            hidden_dropout_prob=0.0,
        )

        class Layer(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention, self.out = LSHSelfAttention(config, layer_idx=0), ReformerSelfOutput(config)

            def forward(self, x: Tensor) -> Tensor:
                return self.out(self.attention(x).hidden_states)

        return Layer()
    raise ValueError(f"no layer {name!r}")
