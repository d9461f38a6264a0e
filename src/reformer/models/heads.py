"""Heads over the two-sided encoder, on the conventions of transformers' heads."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers.modeling_outputs import (
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from reformer.errors import InputError
from reformer.models.config import ReformerConfig
from reformer.models.language_head import Counts, LanguageHead
from reformer.models.loss import ask_labels, token_loss
from reformer.models.model import ReformerModel
from reformer.models.pooling import pool
from reformer.models.prepared import Prepared
from reformer.models.pretrained import ReformerPreTrainedModel, check_one_stack
from reformer.models.sequence_parallel import SequenceParallel, refuse_parts
from reformer.ops.questions import Questions
from reformer.settings.data import IGNORED

Problem = Literal["regression", "single_label_classification", "multi_label_classification"]
Mask = Shaped[Tensor, "b l"]


@dataclass
class ReformerMaskedLMOutput(Counts, MaskedLMOutput):
    """The usual output, and how many tokens were predicted, how many of them rightly."""


@dataclass
class ReformerSequenceClassifierOutput(Counts, SequenceClassifierOutput):
    """The usual output, and how many texts had a class, how many of them the likeliest one."""


@dataclass
class ReformerTokenClassifierOutput(Counts, TokenClassifierOutput):
    """The usual output, and how many tokens had a class, how many of them the likeliest one."""


@dataclass
class ReformerQuestionAnsweringOutput(Counts, QuestionAnsweringModelOutput):
    """The usual output, and how many answers there were, how many of them with the likeliest start and end."""


class _Head(ReformerPreTrainedModel):
    """A model, and a head over its hidden states."""

    accepts_loss_kwargs = True  # the Trainer then passes num_items_in_batch
    both_ways = True

    def __init__(self, config: ReformerConfig) -> None:
        check_one_stack(config, type(self))
        super().__init__(config)
        if config.causal and self.both_ways:
            raise InputError(f"causal=True: {type(self).__name__} reads both ways; make its config with causal=False")
        self.model = ReformerModel(config)

    def _prepare(
        self,
        given: tuple[Any, ...],
        labels: Tensor | None,
        sequence_parallel: SequenceParallel | None,
        seed: int | None,
    ) -> Prepared:
        """What `ReformerModel.prepare` makes of tokens that may have a label each."""
        return self.model.prepare(
            *given, labels=labels, sequence_parallel=sequence_parallel, seed=seed, apart=("labels",)
        )

    def _ask_classes(self, labels: Tensor, size: tuple[int, ...], questions: Questions) -> None:
        classes = len(self.config.class_names)
        ask_labels(labels, size, classes, f"num_labels={classes}", "has none", questions)


class ReformerForMaskedLM(LanguageHead, _Head):
    """Predicts masked tokens from both sides. With `loss_chunk`, an output that has a loss has no logits."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.token.weight"}

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self._make_head(config)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Mask | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        labels: Int[Tensor, "b l"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: int | Tensor | None = None,
        seed: int | None = None,
        sequence_parallel: SequenceParallel | None = None,
        token_type_ids: Tensor | None = None,  # of tokenizers of other models; not used
    ) -> ReformerMaskedLMOutput | tuple[Any, ...]:
        """Logits of each token, and with `labels` (-100: not masked, not predicted) the loss in nats a token.

        `sequence_parallel` as in `ReformerForCausalLM`.
        """
        given = input_ids, attention_mask, position_ids, segment_ids, inputs_embeds
        prepared = self._prepare(given, labels, sequence_parallel, seed)
        self._ask_labels(labels, prepared.size, prepared.questions)
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
        result = ReformerMaskedLMOutput(
            hidden_states=output.hidden_states,
            **self._predict(output.last_hidden_state, labels, num_items_in_batch, logits_to_keep, prepared.parts),
        )
        return self._shaped(result, return_dict)


class ReformerForSequenceClassification(_Head):
    """A class, several classes or a number for each text, from its pooled hidden states (`pooling`).

    `num_labels` and `problem_type` as in transformers: regression for one label, else one class for integer labels
    and several for others. A causal model works too.
    """

    both_ways = False

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        if config.causal and config.pooling == "first":
            raise InputError(
                "pooling='first': the first token of a causal model sees nothing else; choose mean or last, or "
                "causal=False"
            )
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.dense = nn.Linear(config.settings.merged_width, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, len(config.class_names))
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Mask | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
        seed: int | None = None,
        sequence_parallel: SequenceParallel | None = None,
        token_type_ids: Tensor | None = None,  # of tokenizers of other models; not used
    ) -> ReformerSequenceClassifierOutput | tuple[Any, ...]:
        """Logits [b, num_labels], and with `labels` ([b]; [b, num_labels] for several classes) the mean loss.

        Without a mask, a causal model takes runs of `pad_token_id` at the ends of rows for padding, as others do.
        Raises InputError for labels that are no class.
        """
        refuse_parts(sequence_parallel, type(self))
        if attention_mask is None and input_ids is not None and self.config.causal:
            attention_mask = _without_ends(input_ids, self.config.pad_token_id)
        prepared = self.model.prepare(input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds)
        if labels is not None and self._problem(labels) == "single_label_classification":
            self._ask_classes(labels, prepared.size[:1], prepared.questions)
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
        pooled = output.pooler_output
        if pooled is None:
            mask = None if attention_mask is None else attention_mask.bool()
            pooled = pool(output.last_hidden_state, mask, self.config.pooling)
        logits = self.classifier(self.dropout(torch.tanh(self.dense(self.dropout(pooled)))))
        learned: dict[str, Any] = {} if labels is None else self._learn(logits, labels, num_items_in_batch)
        result = ReformerSequenceClassifierOutput(logits=logits, hidden_states=output.hidden_states, **learned)
        return self._shaped(result, return_dict)

    def _problem(self, labels: Tensor) -> Problem:
        if self.config.problem_type:
            return self.config.problem_type
        if len(self.config.class_names) == 1:
            return "regression"
        return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"

    def _learn(self, logits: Tensor, labels: Tensor, num_items_in_batch: int | Tensor | None) -> dict[str, Any]:
        """Fields of the output."""
        kind = self.config.problem_type = self._problem(labels)  # pipelines choose by it
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if kind == "single_label_classification":
            return token_loss(logits[:, None], labels[:, None], nn.Identity()).fields(num_items_in_batch)
        wanted = labels.to(logits.device, logits.dtype).view(len(labels), -1)
        if wanted.shape != logits.shape:
            raise InputError(f"labels have shape {list(labels.shape)}; for {kind} they must be {list(logits.shape)}")
        items = wanted.numel() if num_items_in_batch is None else num_items_in_batch
        if kind == "regression":
            return {"loss": F.mse_loss(logits, wanted, reduction="sum") / items}
        correct = ((logits > 0) == (wanted > 0.5)).sum()
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / items
        return {"loss": loss, "correct": correct, "predicted": correct.new_tensor(wanted.numel())}


class ReformerForTokenClassification(_Head):
    """A class for each token."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.classifier = nn.Linear(config.settings.merged_width, len(config.class_names))
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Mask | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        segment_ids: Int[Tensor, "b l"] | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        labels: Int[Tensor, "b l"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
        seed: int | None = None,
        sequence_parallel: SequenceParallel | None = None,
        token_type_ids: Tensor | None = None,  # of tokenizers of other models; not used
    ) -> ReformerTokenClassifierOutput | tuple[Any, ...]:
        """Logits [b, l, num_labels], and with `labels` (-100 ignored) the mean loss over tokens.

        `sequence_parallel` as in `ReformerForCausalLM`. Raises InputError for labels that are no class.
        """
        given = input_ids, attention_mask, position_ids, segment_ids, inputs_embeds
        prepared = self._prepare(given, labels, sequence_parallel, seed)
        if labels is not None:
            self._ask_classes(labels, prepared.size, prepared.questions)
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
        logits = self.classifier(self.dropout(output.last_hidden_state))
        learned: dict[str, Any] = {}
        if labels is not None:
            sums = token_loss(logits, labels, nn.Identity())
            sums = sums if prepared.parts is None else sums.over(prepared.parts)
            learned = sums.fields(num_items_in_batch)
        result = ReformerTokenClassifierOutput(logits=logits, hidden_states=output.hidden_states, **learned)
        return self._shaped(result, return_dict)


class ReformerForQuestionAnswering(_Head):
    """The first and the last token of an answer; padding is never one."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.qa_outputs = nn.Linear(config.settings.merged_width, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Mask | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        start_positions: Int[Tensor, "b"] | None = None,
        end_positions: Int[Tensor, "b"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
        seed: int | None = None,
        sequence_parallel: SequenceParallel | None = None,
        token_type_ids: Tensor | None = None,  # of tokenizers of other models; not used
    ) -> ReformerQuestionAnsweringOutput | tuple[Any, ...]:
        """Logits of starts and ends [b, l]; with both positions the loss, the mean of that of start and of end.

        A position outside the tokens is not learned from, as in transformers.
        """
        refuse_parts(sequence_parallel, type(self))
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            seed=seed,
        )
        logits = self.qa_outputs(self.dropout(output.last_hidden_state))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if attention_mask is not None:
            padding = ~attention_mask.to(logits.device, torch.bool).unsqueeze(-1)
            logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min)
        starts, ends = logits.unbind(-1)
        learned: dict[str, Any] = {}
        if start_positions is not None and end_positions is not None:
            wanted = torch.stack((start_positions.view(-1), end_positions.view(-1)), dim=1).to(logits.device)
            learned = _learn_spans(logits, wanted, num_items_in_batch)
        result = ReformerQuestionAnsweringOutput(
            start_logits=starts, end_logits=ends, hidden_states=output.hidden_states, **learned
        )
        return self._shaped(result, return_dict)


def _without_ends(tokens: Int[Tensor, "b l"], pad: int | None) -> Bool[Tensor, "b l"] | None:
    """A mask of what stands between runs of padding at the ends of rows: without one, causal models go by the token."""
    if pad is None:
        return None
    real = (tokens != pad).int()
    return (real.cummax(1).values & real.flip(1).cummax(1).values.flip(1)).bool()


def _learn_spans(
    logits: Float[Tensor, "b l 2"], wanted: Int[Tensor, "b 2"], num_items_in_batch: int | Tensor | None
) -> dict[str, Any]:
    """Fields of the output; an answer is right if its start and its end are."""
    wanted = wanted.masked_fill((wanted < 0) | (wanted >= logits.shape[1]), IGNORED)
    sums = token_loss(logits.transpose(1, 2), wanted, nn.Identity())
    asked = (wanted != IGNORED).all(1)
    correct = ((logits.argmax(1) == wanted).all(1) & asked).sum()
    loss = sums.reduce(None if num_items_in_batch is None else 2 * num_items_in_batch)
    return {"loss": loss, "correct": correct, "predicted": asked.sum()}
