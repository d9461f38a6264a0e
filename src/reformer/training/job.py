"""What a run learns: its data in their order, and the model for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from reformer.data.batches import TrainingBatches
from reformer.data.cutting import CutWindows
from reformer.data.examples import Example, ExampleCollate, ExampleDataset, Examples
from reformer.data.masking import MaskedWindows
from reformer.data.prepare import Corpus
from reformer.data.tokens import Tokens
from reformer.data.windows import Collate, HeldOutWindows, TrainingWindows
from reformer.models import (
    ReformerForCausalLM,
    ReformerForConditionalGeneration,
    ReformerForMaskedLM,
    ReformerForQuestionAnswering,
    ReformerForSequenceClassification,
    ReformerForTokenClassification,
    ReformerPreTrainedModel,
)
from reformer.settings import ModelSettings
from reformer.settings.data import DataSettings
from reformer.settings.training import TrainingSettings
from reformer.training.processes import process_count

Text = Corpus | Examples
"""What runs are trained on."""

MODELS: dict[str, type[ReformerPreTrainedModel]] = {
    "lm": ReformerForCausalLM,
    "mlm": ReformerForMaskedLM,
    "classify": ReformerForSequenceClassification,
    "tag": ReformerForTokenClassification,
    "qa": ReformerForQuestionAnswering,
    "translate": ReformerForConditionalGeneration,
}
"""The model of each task."""


@dataclass(frozen=True)
class Job:
    """A training run's data and model."""

    model_class: type[ReformerPreTrainedModel]
    train: Dataset[Any]
    held_out: Dataset[Any]
    collate: Callable[[Any], dict[str, Tensor]]
    rows: int
    """Items of `train` that make a micro-batch."""
    amount: str
    """How much there is to learn from, in words."""
    config: dict[str, Any] = field(default_factory=dict)
    """Of the configuration, beyond the model's settings."""
    evaluating: dict[str, Any] = field(default_factory=dict)
    """Arguments of the model in evaluation."""


def make_job(text: Text, data: DataSettings, training: TrainingSettings) -> Job:
    """The run over a corpus or over examples."""
    if isinstance(text, Examples):
        return _example_job(text, data, training)
    rows = training.batch_size * training.accumulation * process_count()
    train: Dataset[Any] = TrainingWindows(text.train, training.phases(), rows, training.seed)
    held_out: Dataset[Any] = HeldOutWindows(text.held_out, training.length, training.eval_tokens)
    if data.task == "lm" and data.cut_windows:
        train = CutWindows(train, data.cut_windows, training.seed)
    if data.task == "mlm":
        train = MaskedWindows(train, text.tokens, data.mask, training.seed)
        held_out = MaskedWindows(held_out, text.tokens, data.mask, training.seed)
    read = rows * sum(phase.length * phase.steps for phase in training.phases()) / len(text.train)
    return Job(
        MODELS[data.task],
        train,
        held_out,
        Collate(text.tokens, apart=data.documents == "apart"),
        training.batch_size,
        f"{len(text.train):,} tokens, read {read:,.2f} times in {training.steps:,} steps",
        evaluating={"logits_to_keep": 1},
    )


def _example_job(text: Examples, data: DataSettings, training: TrainingSettings) -> Job:
    batches = training.steps * training.accumulation * process_count()
    names = dict(enumerate(text.classes))
    return Job(
        MODELS[data.task],
        TrainingBatches(text.train, batches, training.batch_size, training.batch_tokens, training.seed),
        ExampleDataset(_spread(text.held_out, training.eval_tokens)),
        ExampleCollate(text.tokens.pad),
        1,
        f"{len(text.train):,} examples of {sum(example.size for example in text.train) / len(text.train):,.0f} tokens",
        config={"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {},
        evaluating={"logits_to_keep": 1} if data.task == "translate" else {},
    )


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    """As many examples, spread over all, as have so many tokens: at least one."""
    total = sum(example.size for example in examples)
    step = max(total / most, 1.0)
    return [examples[int(i * step)] for i in range(int(len(examples) / step))] or list(examples[:1])


def for_task(settings: ModelSettings, task: str) -> ModelSettings:
    """Settings of a model for a task: what reads both ways is not causal."""
    return settings if task in ("lm", "translate") else replace(settings, causal=False)


def with_tokens(settings: ModelSettings, tokens: Tokens) -> ModelSettings:
    """Settings of a model for these tokens: as many, unless more are asked for, and their special ones."""
    size = tokens.vocabulary if settings.vocab_size is None else settings.vocab_size
    return replace(settings, vocab_size=max(size, tokens.end + 1), pad_token_id=tokens.pad, eos_token_id=tokens.end)
