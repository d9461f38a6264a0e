"""What a run learns: its data in their order, and the model for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from reformer.data.batches import ExampleDataset, TrainingBatches
from reformer.data.examples import Example, Examples
from reformer.data.pace import Pace
from reformer.data.prepare import Corpus
from reformer.data.streaming import StreamedCorpus, StreamedWindows
from reformer.data.task import Task
from reformer.data.tokenizer import Tokenizer
from reformer.data.windows import HeldOutWindows, TrainingWindows
from reformer.models import ReformerPreTrainedModel
from reformer.settings import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.training.processes import process_count

Text = Corpus | StreamedCorpus | Examples
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
    save_places: Callable[[Path, int], None] | None = None
    """Writes to a file where this process reads behind a step, if data are read as they come."""


def items_per_step(text: Text, training: TrainingSettings) -> int:
    """What a step of all processes takes of the data: windows, or micro-batches of examples."""
    batches = training.accumulation * (process_count() // training.sequence_parallel)
    return batches if isinstance(text, Examples) else batches * training.batch_size


def make_job(
    text: Text,
    task: Task,
    training: TrainingSettings,
    past: Sequence[tuple[int, int]] = (),
    resume: Path | None = None,
) -> Job:
    """The run over a corpus or over examples; `past` is that of its `Pace` where it goes on, `resume` from where."""
    rows, phases = items_per_step(text, training), training.phases()
    if isinstance(text, Examples):
        return _example_job(text, task, training, Pace(rows, past))
    train: TrainingWindows | StreamedWindows
    read = rows * sum(phase.length * phase.steps for phase in phases)
    if isinstance(text, StreamedCorpus):
        train = StreamedWindows(text, phases, rows, training.seed, past, resume)
        amount = f"{read:,} tokens, read as they come in {training.steps:,} steps"
    else:
        train = TrainingWindows(text.train, phases, rows, training.seed, past)
        amount = f"{len(text.train):,} tokens, read {read / len(text.train):,.2f} times in {training.steps:,} steps"
    held_out = HeldOutWindows(text.held_out, training.length, training.eval_tokens)
    return Job(
        task.model_class,
        task.windows(train, text.tokenizer, training.seed, held_out=False),
        task.windows(held_out, text.tokenizer, training.seed, held_out=True),
        task.collate(text),
        training.batch_size,
        amount,
        evaluating=task.evaluating,
        save_places=train.save if isinstance(train, StreamedWindows) else None,
    )


def _example_job(text: Examples, task: Task, training: TrainingSettings, pace: Pace) -> Job:
    batches = training.steps * pace.items
    names = dict(enumerate(text.classes))
    return Job(
        task.model_class,
        TrainingBatches(text.train, batches, training.batch_size, training.batch_tokens, training.seed, pace),
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
