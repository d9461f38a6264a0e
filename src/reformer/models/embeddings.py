"""Tokens and positions to the first stream."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer.layers.positions import AxialPositions, LearnedPositions, SinusoidalPositions
from reformer.models.config import ReformerConfig
from reformer.ops.capture import capturing


class Embeddings(nn.Module):
    """Token embeddings, factorised if asked, plus positions, then dropout.

    Where the embeddings predict too, they are small; beside sinusoidal positions they are multiplied by sqrt(width).
    """

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        settings = config.settings
        width = settings.embedding_size or settings.hidden_size
        self.token = nn.Embedding(settings.vocabulary, width)
        self.project = (
            nn.Linear(width, settings.hidden_size, bias=False) if width != settings.hidden_size else nn.Identity()
        )
        self.scale = 1.0
        self.position: nn.Module | None = None
        if settings.position_embedding == "learned":
            self.position = LearnedPositions(settings.max_position_embeddings, settings.hidden_size)
        elif settings.position_embedding == "axial":
            assert settings.axial_shape is not None
            assert settings.axial_dims is not None
            self.position = AxialPositions(settings.axial_shape, settings.axial_dims)
        elif settings.position_embedding == "sinusoidal":
            self.position = SinusoidalPositions(settings.hidden_size)
            if settings.tie_word_embeddings:  # as wide as the waves: Vaswani et al. 2017, section 3.4
                self.scale = width**0.5
        self.limit = settings.length_limit
        self.dropout = nn.Dropout(settings.embedding_dropout)

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None,
        position_ids: Int[Tensor, "b l"],
    ) -> Float[Tensor, "b l hidden"]:
        """Embed; `inputs_embeds` stand in for what `token` gives.

        Raises ValueError for tokens out of the vocabulary and positions over a hard limit.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            _check_range(
                "input_ids",
                input_ids,
                self.token.num_embeddings,
                "vocab_size",
                "check that the tokenizer is the model's",
            )
            inputs_embeds = self.token(input_ids)
        if inputs_embeds.shape[-1] != self.token.embedding_dim:
            raise ValueError(
                f"inputs_embeds have shape {list(inputs_embeds.shape)}; their width must be that of the token "
                f"embeddings, {self.token.embedding_dim}"
            )
        if self.scale != 1:
            inputs_embeds = inputs_embeds * self.scale
        inputs_embeds = self.project(inputs_embeds)
        if self.limit is not None:
            advice = "use shorter texts, or rotary or sinusoidal positions"
            _check_range("position_ids", position_ids, self.limit, "the longest document of its positions", advice)
        if self.position is not None:
            inputs_embeds = inputs_embeds + self.position(position_ids, inputs_embeds.dtype)
        return self.dropout(inputs_embeds)


def _check_range(name: str, values: Tensor, limit: int, what: str, advice: str) -> None:
    if torch.compiler.is_compiling() or capturing(values.device) or not values.numel():
        return
    low, high = (int(x) for x in values.aminmax())
    if low < 0 or high >= limit:
        raise ValueError(
            f"{name} hold {low if low < 0 else high}; {what} is {limit}, so 0 to {limit - 1} are valid: {advice}"
        )
