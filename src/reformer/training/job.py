"""What a run learns: its data in their order, and the model for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from reformer.data.batches import ExampleDataset, TrainingBatches
from reformer.data.examples import Example, Examples
from reformer.data.prepare import Corpus
from reformer.data.task import Task
from reformer.data.tokenizer import Tokenizer
from reformer.data.windows import HeldOutWindows, TrainingWindows
from reformer.models import ReformerPreTrainedModel
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.training.processes import process_count

Text = Corpus | Examples
"""What runs are trained on."""


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


def make_job(text: Text, task: Task, training: TrainingSettings) -> Job:
    """The run over a corpus or over examples."""
    if isinstance(text, Examples):
        return _example_job(text, task, training)
    rows = training.batch_size * training.accumulation * process_count()
    train = TrainingWindows(text.train, training.phases(), rows, training.seed)
    held_out = HeldOutWindows(text.held_out, training.length, training.eval_tokens)
    read = rows * sum(phase.length * phase.steps for phase in training.phases()) / len(text.train)
    return Job(
        task.model_class,
        task.windows(train, text.tokenizer, training.seed, held_out=False),
        task.windows(held_out, text.tokenizer, training.seed, held_out=True),
        task.collate(text),
        training.batch_size,
        f"{len(text.train):,} tokens, read {read:,.2f} times in {training.steps:,} steps",
        evaluating=task.evaluating,
    )


def _example_job(text: Examples, task: Task, training: TrainingSettings) -> Job:
    batches = training.steps * training.accumulation * process_count()
    names = dict(enumerate(text.classes))
    return Job(
        task.model_class,
        TrainingBatches(text.train, batches, training.batch_size, training.batch_tokens, training.seed),
        ExampleDataset(_spread(text.held_out, training.eval_tokens)),
        task.collate(text),
        1,
        f"{len(text.train):,} examples of {sum(example.size for example in text.train) / len(text.train):,.0f} tokens",
        config={"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {},
        evaluating=task.evaluating,
    )


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    """As many examples, spread over all, as have so many tokens: at least one."""
    total = sum(example.size for example in examples)
    step = max(total / most, 1.0)
    return [examples[int(i * step)] for i in range(int(len(examples) / step))] or list(examples[:1])


def with_tokens(settings: ModelSettings, tokenizer: Tokenizer) -> ModelSettings:
    """Settings of a model for these tokens: as many, unless more are asked for, and their special ones."""
    size = tokenizer.vocabulary if settings.vocab_size is None else settings.vocab_size
    return replace(
        settings, vocab_size=max(size, tokenizer.end + 1), pad_token_id=tokenizer.pad, eos_token_id=tokenizer.end
    )
