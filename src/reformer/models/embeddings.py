"""Tokens and positions to the first stream."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer.errors import InputError
from reformer.layers.positions import AxialPositions, LearnedPositions, SinusoidalPositions
from reformer.models.config import ReformerConfig
from reformer.ops.questions import Questions


class Embeddings(nn.Module):
    """Token embeddings, factorised if asked, plus positions, then dropout.

    Where the embeddings predict too, they are small; beside sinusoidal positions they are multiplied by sqrt(width).
    """

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        settings = config.settings
        width = settings.embedding_size or settings.hidden_size
        self.token, self.width = nn.Embedding(settings.vocabulary, width), width
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

    def check_width(self, inputs_embeds: Float[Tensor, "b l hidden"]) -> None:
        """InputError for vectors of another width than the table's."""
        if inputs_embeds.shape[-1] != self.width:
            raise InputError(
                f"inputs_embeds have shape {list(inputs_embeds.shape)}; their width must be that of the token "
                f"embeddings, {self.width}"
            )

    def ask_tokens(self, input_ids: Int[Tensor, "b l"], questions: Questions) -> None:
        """Ask whether all tokens are in the vocabulary; the answer raises InputError if they are not."""
        advice = "check that the tokenizer is the model's"
        _ask_range("input_ids", input_ids, self.token.weight.shape[0], "vocab_size", advice, questions)

    def ask_positions(self, position_ids: Int[Tensor, "b l"], questions: Questions) -> None:
        """Ask whether all positions are within a hard limit, where there is one; as `ask_tokens`."""
        if self.limit is not None:
            advice = "use shorter texts, or rotary or sinusoidal positions"
            what = "the longest document of its positions"
            _ask_range("position_ids", position_ids, self.limit, what, advice, questions)

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None,
        position_ids: Int[Tensor, "b l"],
    ) -> Float[Tensor, "b l hidden"]:
        """Embed tokens and positions that were asked about; `inputs_embeds` stand in for what `token` gives."""
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.token(input_ids)
        if self.scale != 1:
            inputs_embeds = inputs_embeds * self.scale
        inputs_embeds = self.project(inputs_embeds)
        if self.position is not None:
            inputs_embeds = inputs_embeds + self.position(position_ids, inputs_embeds.dtype)
        return self.dropout(inputs_embeds)


def _ask_range(name: str, values: Tensor, limit: int, what: str, advice: str, questions: Questions) -> None:
    if not values.numel():
        return

    def check(ends: Sequence[int]) -> None:
        low, high = ends
        if low < 0 or high >= limit:
            raise InputError(
                f"{name} hold {low if low < 0 else high}; {what} is {limit}, so 0 to {limit - 1} are valid: {advice}"
            )

    questions.ask(torch.stack(values.aminmax()), check)
