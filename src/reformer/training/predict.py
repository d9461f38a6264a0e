"""What a model of a task answers, example by example."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reformer.data.examples import Example, ExampleCollate
from reformer.data.question import Answered
from reformer.data.tokens import Tokens
from reformer.models import (
    ReformerForQuestionAnswering,
    ReformerForSequenceClassification,
    ReformerForTokenClassification,
)
from reformer.models.loss import IGNORED
from reformer.training.evaluate import evaluating

BATCH = 32
ANSWER = 64
"""The longest answer, tokens."""

Advance = Callable[[int], None]


def classes_of(
    model: ReformerForSequenceClassification, examples: Sequence[Example], tokens: Tokens, **options: Any
) -> list[str]:
    """The likeliest class of each text."""
    names = model.config.class_names

    def answer(part: Sequence[Example], inputs: dict[str, Tensor]) -> list[str]:
        return [names[i] for i in model(**inputs).logits.argmax(-1).tolist()]

    return _in_batches(model, examples, tokens, answer, **options)


def tags_of(
    model: ReformerForTokenClassification, examples: Sequence[Example], tokens: Tokens, **options: Any
) -> list[list[str]]:
    """The likeliest tag of each word."""
    names = model.config.class_names

    def answer(part: Sequence[Example], inputs: dict[str, Tensor]) -> list[list[str]]:
        best = model(**inputs).logits.argmax(-1).cpu().numpy()
        asked = [np.flatnonzero(np.asarray(example.features["labels"]) != IGNORED) for example in part]
        return [[names[i] for i in row[where].tolist()] for row, where in zip(best, asked, strict=True)]

    return _in_batches(model, examples, tokens, answer, **options)


def answers_of(
    model: ReformerForQuestionAnswering, examples: Sequence[Example], tokens: Tokens, **options: Any
) -> list[str]:
    """The likeliest answer in each context, of at most `ANSWER` tokens."""

    def answer(part: Sequence[Example], inputs: dict[str, Tensor]) -> list[str]:
        output = model(**inputs)
        found = []
        for example, starts, ends in zip(part, output.start_logits, output.end_logits, strict=True):
            truth: Answered = example.truth
            inside = slice(truth.offset, truth.offset + len(truth.context))
            first, last = best_span(starts[inside], ends[inside])
            found.append(tokens.as_bytes(truth.context[first : last + 1].tolist()).decode("utf-8", "replace").strip())
        return found

    return _in_batches(model, examples, tokens, answer, **options)


def best_span(starts: Float[Tensor, "l"], ends: Float[Tensor, "l"]) -> tuple[int, int]:
    """The start and the end, not before it and at most `ANSWER` tokens on, with the largest sum of logits."""
    if not len(starts):
        return 0, -1
    padded = torch.nn.functional.pad(ends, (0, ANSWER - 1), value=float("-inf"))
    sums = starts[:, None] + padded.unfold(0, ANSWER, 1)  # [start, length - 1]
    best = int(sums.argmax())
    return best // ANSWER, best // ANSWER + best % ANSWER


def translations_of(
    model: Any,
    examples: Sequence[Example],
    tokens: Tokens,
    *,
    beams: int = 5,
    longest: int | None = None,
    **options: Any,
) -> list[str]:
    """The targets that beam search finds for sources: at most twice as many tokens and ten more, or `longest`.

    Sources of like length are translated together; with `rule="bucket"` it does not matter which.
    """
    limit = model.config.settings.length_limit

    def answer(part: Sequence[Example], inputs: dict[str, Tensor]) -> list[str]:
        room = longest or 2 * inputs["input_ids"].shape[1] + 10
        room = room if limit is None else min(room, limit - 1)
        found = model.generate(**inputs, max_new_tokens=room, num_beams=beams, do_sample=False, early_stopping=True)
        return [_until_end(row[1:], tokens) for row in found.tolist()]

    return _in_batches(model, examples, tokens, answer, **options)


def source_of(text: bytes, tokens: Tokens) -> Example:
    """A source without a target: the end token stands behind it."""
    ids = tokens.encode([text])[0].astype(np.int64)
    return Example({"input_ids": np.append(ids, tokens.end)}, None, len(ids) + 1)


def _until_end(row: Sequence[int], tokens: Tokens) -> str:
    kept = list(row[: row.index(tokens.end)] if tokens.end in row else row)
    return " ".join(tokens.as_bytes(kept).decode("utf-8", "replace").strip().splitlines())


def _in_batches(
    model: Any,
    examples: Sequence[Example],
    tokens: Tokens,
    answer: Callable[[Sequence[Example], dict[str, Tensor]], list[Any]],
    batch_size: int = BATCH,
    advance: Advance = lambda _: None,
) -> list[Any]:
    """The answers to all examples, computed together with others of like length."""
    collate = ExampleCollate(tokens.pad)
    order = sorted(range(len(examples)), key=lambda i: examples[i].size)
    found: dict[int, Any] = {}
    with torch.no_grad(), evaluating(model):
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            part = [examples[i] for i in numbers]
            batch = collate(part)
            inputs = {name: x.to(model.device) for name, x in batch.items() if name in ("input_ids", "attention_mask")}
            found.update(zip(numbers, answer(part, inputs), strict=True))
            advance(len(part))
    return [found[i] for i in range(len(examples))]
