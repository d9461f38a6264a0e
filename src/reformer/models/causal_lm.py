"""`ReformerForCausalLM`: the language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import logging

from reformer.errors import InputError
from reformer.models.cache import ReformerCache
from reformer.models.cache_name import CACHE
from reformer.models.config import ReformerConfig
from reformer.models.generation import ReformerGenerationMixin
from reformer.models.language_head import Counts, LanguageHead
from reformer.models.loss import TokenScores, next_token_targets, token_scores
from reformer.models.model import ReformerModel
from reformer.models.pretrained import check_one_stack
from reformer.models.sequence_parallel import SequenceParallel
from reformer.settings.data import IGNORED

logger = logging.get_logger(__name__)


@dataclass
class ReformerCausalLMOutput(Counts, CausalLMOutputWithPast):
    """The usual output, and how many tokens were predicted, how many of them rightly."""


class ReformerForCausalLM(LanguageHead, ReformerGenerationMixin):
    """A causal language model over token ids.

    With `loss_chunk`, an output that has a loss has no logits, since they are never whole.
    """

    accepts_loss_kwargs = True  # the Trainer then passes num_items_in_batch
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.token.weight"}

    def __init__(self, config: ReformerConfig) -> None:
        check_one_stack(config, type(self))
        super().__init__(config)
        if not config.causal:
            raise InputError(
                "causal=False: ReformerForCausalLM predicts the next token; make its config with causal=True"
            )
        self.model = ReformerModel(config)
        self._make_head(config)
        self.post_init()

    def score(
        self,
        input_ids: Int[Tensor, "b k"],
        targets: Int[Tensor, "b k"],
        past_key_values: ReformerCache | None = None,
        sequence_parallel: SequenceParallel | None = None,
    ) -> TokenScores:
        """The loss of what each token is to predict (`targets`, -100 ignored), in `loss_chunk` pieces, without a graph.

        `past_key_values` and `sequence_parallel` as in `forward`.
        """
        with torch.no_grad():
            output = self.model(input_ids, past_key_values=past_key_values, sequence_parallel=sequence_parallel)
        return token_scores(output.last_hidden_state, targets, self._logits, self.config.loss_chunk)

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Shaped[Tensor, "b keys"] | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        labels: Int[Tensor, "b l"] | None = None,
        past_key_values: ReformerCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        seed: int | None = None,
        sequence_parallel: SequenceParallel | None = None,
        token_type_ids: Tensor | None = None,  # of tokenizers of other models; not used
    ) -> ReformerCausalLMOutput | tuple[Any, ...]:
        """Logits of the next token, and with `labels` (not shifted, -100 ignored) the loss in nats a token.

        `logits_to_keep` as in transformers: the last n positions, or those of an index; 0 keeps all.
        `num_items_in_batch`: divide the summed loss by it, for accumulation over micro-batches.
        With `sequence_parallel` all tensors are this process's parts of whole rows, and logits too; the loss and the
        counts are those of all parts, and gradients are to be averaged over the processes.
        """
        prepared = self.model.prepare(
            input_ids,
            attention_mask,
            position_ids,
            segment_ids,
            inputs_embeds,
            past_key_values,
            use_cache,
            labels=labels,
            sequence_parallel=sequence_parallel,
            seed=seed,
        )
        self._ask_labels(labels, prepared.size, prepared.questions)
        targets, labels = None, prepared.labels
        if labels is not None:
            new = None if prepared.mask is None else prepared.mask[:, -labels.shape[1] :]
            targets = next_token_targets(labels, new, prepared.segment_ids)
            if num_items_in_batch is not None and (new is not None or prepared.segment_ids is not None):
                dropped = (labels[:, 1:] != IGNORED) & (targets[:, :-1] == IGNORED)
                prepared.questions.ask(dropped.any(), _say_dropped)
            targets = prepared.own(targets)
        output = self.model(
            input_ids=input_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            seed=seed,
            prepared=prepared,
        )
        hidden = output.last_hidden_state
        result = ReformerCausalLMOutput(
            hidden_states=output.hidden_states,
            **{CACHE: getattr(output, CACHE)},
            **self._predict(hidden, targets, num_items_in_batch, logits_to_keep, prepared.parts),
        )
        return self._shaped(result, return_dict)


def _say_dropped(any_dropped: Sequence[int]) -> None:
    if any_dropped[0]:
        logger.warning_once(
            "num_items_in_batch counts labels that nothing predicts (of a document's first token, of padding), so the "
            "loss is too small: let the collator give them -100, as reformer's do"
        )
