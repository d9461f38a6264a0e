"""What all models that predict tokens share: the layer from hidden states to logits, and the loss over it."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.utils import logging

from reformer.models.config import ReformerConfig
from reformer.models.loss import ask_labels, token_loss
from reformer.models.pretrained import ReformerPreTrainedModel
from reformer.ops.checks import check_integer
from reformer.ops.exchange import Parts
from reformer.ops.questions import Questions

logger = logging.get_logger(__name__)


@dataclass
class Counts:
    """How many things a batch asked for, and how many of them the model got right."""

    correct: Int[Tensor, ""] | None = None
    predicted: Int[Tensor, ""] | None = None


class LanguageHead(ReformerPreTrainedModel):
    """`lm_head`, and in front of it `to_embedding` where tied embeddings have another width."""

    def _make_head(self, config: ReformerConfig) -> None:
        width = config.settings.merged_width
        embedding = config.embedding_size or config.hidden_size
        narrow = config.tie_word_embeddings and width != embedding
        self.to_embedding = nn.Linear(width, embedding, bias=False) if narrow else nn.Identity()
        self.lm_head = nn.Linear(embedding if narrow else width, config.vocabulary)

    def get_output_embeddings(self) -> nn.Linear | None:
        """The layer from hidden states to logits; None where they are two, as with `to_embedding`."""
        return self.lm_head if isinstance(self.to_embedding, nn.Identity) else None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace it."""
        self.lm_head = new_embeddings

    def _ask_labels(self, labels: Int[Tensor, "b l"] | None, size: tuple[int, int], questions: Questions) -> None:
        if labels is not None:
            vocabulary = self.config.vocabulary
            what = f"vocab_size is {vocabulary}"
            ask_labels(labels, size, vocabulary, what, "is not to be predicted", questions)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.to_embedding(hidden))
        return logits

    def _predict(
        self,
        hidden: Float[Tensor, "b l width"],
        targets: Int[Tensor, "b l"] | None,
        num_items_in_batch: int | Tensor | None,
        logits_to_keep: int | Tensor = 0,
        parts: Parts | None = None,
    ) -> dict[str, Any]:
        """Fields of an output: logits, and with `targets` the loss; with `loss_chunk` logits beside it if asked for."""
        if isinstance(logits_to_keep, int):
            check_integer("logits_to_keep", logits_to_keep, 0)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        if targets is None:
            return {"logits": self._logits(hidden[:, kept])}
        smoothing = self.config.label_smoothing if self.training else 0.0
        logits = None
        if self.config.loss_chunk:
            sums = token_loss(hidden, targets, self._logits, self.config.loss_chunk, smoothing)
            if not isinstance(logits_to_keep, int) or logits_to_keep:
                logits = self._logits(hidden[:, kept])
            elif not self.training:
                logger.warning_once(
                    "with loss_chunk an output that has a loss has no logits; pass logits_to_keep, or set loss_chunk=0"
                )
        else:
            logits = self._logits(hidden)
            sums = token_loss(logits, targets, nn.Identity(), smoothing=smoothing)
            logits = logits[:, kept]
        sums = sums if parts is None else sums.over(parts)
        return {"logits": logits, **sums.fields(num_items_in_batch)}
