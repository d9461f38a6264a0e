"""`ReformerLM`: the constructor that people know from reformer-pytorch, over `ReformerForCausalLM`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer.errors import InputError
from reformer.models.causal_lm import ReformerForCausalLM
from reformer.models.config import ReformerConfig


class ReformerLM(nn.Module):
    """A causal language model that takes token ids [b, l] and returns logits [b, l, num_tokens].

    Args:
        num_tokens: tokens of the vocabulary.
        dim: width of the model; `emb_dim` unless given.
        emb_dim: width of the token embeddings; `dim` unless given.
        max_seq_len: the length that the model is meant for, tokens; positions are rotary, so longer texts go too.
        depth: layers, LSH and local attention in turn.
        heads: attention heads.
        lsh_dropout: dropout of the attention probabilities of LSH layers.
        ff_dropout: dropout of what the feed-forward branches add.
        attn_dropout: dropout of what the attention branches add.
        return_embeddings: return the final hidden states [b, l, dim] instead of logits.

    The model inside, `.model`, saves, loads and generates as transformers models do.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        dim: int | None = None,
        emb_dim: int | None = None,
        max_seq_len: int = 8192,
        depth: int = 6,
        heads: int = 8,
        lsh_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        attn_dropout: float = 0.0,
        return_embeddings: bool = False,
    ) -> None:
        super().__init__()
        width = emb_dim if dim is None else dim
        if width is None:
            raise InputError("dim and emb_dim are both missing; give the width of the model as one of them")
        self.return_embeddings = return_embeddings
        self.model = ReformerForCausalLM(
            ReformerConfig(
                vocab_size=num_tokens,
                hidden_size=width,
                embedding_size=None if emb_dim == width else emb_dim,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                attention_pattern=("lsh", "local"),
                max_position_embeddings=max_seq_len,
                lsh_dropout=lsh_dropout,
                feed_forward_dropout=ff_dropout,
                attention_output_dropout=attn_dropout,
                stream_merge="mean",
                pad_token_id=None,
                eos_token_id=None,
            )
        )

    def forward(
        self, input_ids: Int[Tensor, "b l"], attention_mask: Int[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b l out"]:
        """Logits, or the final hidden states with `return_embeddings`."""
        if self.return_embeddings:
            hidden: torch.Tensor = self.model.model(input_ids, attention_mask=attention_mask).last_hidden_state
            return hidden
        logits: torch.Tensor = self.model(input_ids, attention_mask=attention_mask).logits
        return logits
