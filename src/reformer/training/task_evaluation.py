"""How well a model does its task on rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reformer.data.examples import Example
from reformer.data.tokens import Tokens
from reformer.training.metrics import (
    accuracy,
    exact_match,
    f1_by_class,
    has_spans,
    spans_f1,
    translation_scores,
    words_f1,
)
from reformer.training.predict import BATCH, answers_of, classes_of, tags_of, translations_of


@dataclass(frozen=True)
class TaskResult:
    """Scores, and the answers that they are of."""

    scores: dict[str, float]
    answers: list[Any]
    """One for each row, in its order."""
    notes: dict[str, str] = field(default_factory=dict)
    """What the scores were computed with."""


def evaluate_task(
    task: str,
    model: Any,
    examples: Sequence[Example],
    tokens: Tokens,
    *,
    batch_size: int | None = None,
    beams: int = 5,
    advance: Callable[[int], None] = lambda _: None,
) -> TaskResult:
    """The scores that users of a task read. `beams` is for translate."""
    options: dict[str, Any] = {"batch_size": batch_size or BATCH, "advance": advance}
    if task == "classify":
        return _classes(classes_of(model, examples, tokens, **options), examples)
    if task == "tag":
        return _tags(tags_of(model, examples, tokens, **options), examples)
    if task == "qa":
        return _answers(answers_of(model, examples, tokens, **options), examples)
    lines = translations_of(model, examples, tokens, beams=beams, **options)
    found = translation_scores(lines, [example.truth for example in examples])
    notes = {"BLEU": found.bleu_signature, "chrF": found.chrf_signature, "beam search": f"{beams} beams"}
    return TaskResult({"BLEU": found.bleu, "chrF": found.chrf}, lines, notes)


def _classes(found: list[str], examples: Sequence[Example]) -> TaskResult:
    truth = [example.truth for example in examples]
    each = f1_by_class(found, truth)
    scores = {"accuracy": accuracy(found, truth), "F1 (mean of classes)": _mean([one.value for one in each.values()])}
    return TaskResult(scores | {f"F1 of {name}": one.value for name, one in each.items()}, found)


def _tags(found: list[list[str]], examples: Sequence[Example]) -> TaskResult:
    truth = [example.truth for example in examples]
    flat = [tag for row in found for tag in row], [tag for row in truth for tag in row]
    scores = {"accuracy": accuracy(*flat)}
    if has_spans(flat[1]):
        spans = spans_f1(found, truth)
        return TaskResult(
            scores | {"F1 of spans": spans.value, "precision": spans.precision, "recall": spans.recall}, found
        )
    return TaskResult(scores | {"F1 (mean of tags)": _mean([one.value for one in f1_by_class(*flat).values()])}, found)


def _answers(found: list[str], examples: Sequence[Example]) -> TaskResult:
    pairs = [(answer, example.truth.answers) for answer, example in zip(found, examples, strict=True)]
    scores = {
        "exact match": _mean([exact_match(*pair) for pair in pairs]),
        "F1 of words": _mean([words_f1(*pair) for pair in pairs]),
    }
    return TaskResult(scores, found)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
