"""What a model answers, example by example, computed together with others of like length."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reformer.data.batches import ExampleCollate
from reformer.data.examples import Example
from reformer.data.task import Advance, nothing
from reformer.inference.evaluate import evaluating

BATCH = 32

Answer = Callable[[Sequence[Example], dict[str, Tensor]], list[Any]]
"""Some examples, and the arguments of the model for them, to an answer each."""


def predict(
    answer: Answer,
    model: Any,
    examples: Sequence[Example],
    pad: int,
    *,
    batch_size: int | None = None,
    advance: Advance = nothing,
) -> list[Any]:
    """The answers to all examples, in their order; `advance` is told how many are done."""
    collate, batch_size = ExampleCollate(pad), batch_size or BATCH
    order = sorted(range(len(examples)), key=lambda i: examples[i].size)
    answers: dict[int, Any] = {}
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            part = [examples[i] for i in numbers]
            batch = collate(part)
            inputs = {name: x.to(model.device) for name, x in batch.items() if name in ("input_ids", "attention_mask")}
            answers.update(zip(numbers, answer(part, inputs), strict=True))
            advance(len(part))
    return [answers[i] for i in range(len(examples))]
