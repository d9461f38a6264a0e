"""Random Reformers of transformers, with sharp attention, so that a wrong mask shows."""

import random
from typing import Any

import torch
import transformers
from torch import Tensor

SHARP = 6.0
"""Factor of two-dimensional weights."""


def random_config(number: int, **fixed: Any) -> transformers.ReformerConfig:
    """The n-th random configuration: layers, chunks, neighbours, buckets, positions, sizes."""
    draw = random.Random(number)
    causal = fixed.get("is_decoder", draw.random() < 0.7)
    layers = [draw.choice(["lsh", "local"]) for _ in range(draw.randint(1, 4))]
    rows, columns = draw.choice([(8, 16), (4, 40), (16, 12)])
    hidden = draw.choice([16, 24])
    dims = draw.randint(1, hidden - 1)
    settings: dict[str, Any] = {
        "attn_layers": layers,
        "vocab_size": draw.choice([40, 57]),
        "hidden_size": hidden,
        "num_attention_heads": draw.choice([1, 2, 3]),
        "attention_head_size": draw.choice([4, 8]),
        "feed_forward_size": 32,
        "hidden_act": draw.choice(["relu", "gelu", "silu"]),
        "is_decoder": causal,
        "axial_pos_embds": draw.random() < 0.6,
        "axial_pos_shape": (rows, columns),
        "axial_pos_embds_dim": (dims, hidden - dims),
        "max_position_embeddings": rows * columns,
        "lsh_attn_chunk_length": draw.choice([2, 4, 6, 8]),
        "lsh_num_chunks_before": draw.choice([0, 1, 2]),
        "lsh_num_chunks_after": 0 if causal else draw.choice([0, 1]),
        "local_attn_chunk_length": draw.choice([2, 4, 6, 8]),
        "local_num_chunks_before": draw.choice([0, 1, 2]),
        "local_num_chunks_after": 0 if causal else draw.choice([0, 1]),
        "num_hashes": draw.choice([1, 2, 4]),
        "num_buckets": draw.choice([None, 2, 4, 8, [2, 4], [4, 2, 2]]),
        "hash_seed": number,
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
        "lsh_attention_probs_dropout_prob": 0.0,
        "chunk_size_feed_forward": draw.choice([0, 1]),
        "use_cache": False,
    }
    return transformers.ReformerConfig(**{**settings, **fixed})


def random_model(config: transformers.ReformerConfig, seed: int = 0) -> Any:
    """With a head where the configuration is causal; fp64, in evaluation."""
    torch.manual_seed(seed)
    kind = transformers.ReformerModelWithLMHead if config.is_decoder else transformers.ReformerModel
    model = kind(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(SHARP)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    if hasattr(model, "lm_head"):
        torch.nn.init.zeros_(model.lm_head.bias)
    return model.eval()


def random_batch(number: int, vocab_size: int, longest: int, padded: bool) -> tuple[Tensor, Tensor | None]:
    """Tokens [3, l] and, if asked, a mask with padding on the right; short lengths come often."""
    draw = random.Random(number)
    length = draw.choice([1, 2, 3, draw.randint(4, 20), draw.randint(20, longest)])
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(1, vocab_size, (3, length), generator=generator)
    if not padded:
        return tokens, None
    kept = torch.tensor([length, draw.randint(1, length), draw.randint(1, length)])
    mask = torch.arange(length) < kept[:, None]
    return tokens.masked_fill(~mask, 0), mask.long()
