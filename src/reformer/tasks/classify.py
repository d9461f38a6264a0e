"""Classification of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reformer.data.examples import Example
from reformer.data.task import Result
from reformer.data.tokenizer import Tokenizer, as_text
from reformer.errors import InputError
from reformer.inference.metrics import accuracy, f1_by_class
from reformer.tasks.rows import LabelledTask, mean, number_of

if TYPE_CHECKING:
    from torch import Tensor

Labelled = tuple[str, str]
"""A text and the name of its class."""


@dataclass(kw_only=True)
class Classify(LabelledTask):
    """Name the class of a text."""

    task: str = "classify"

    model_name = "ReformerForSequenceClassification"

    def rows(self, held_out: bool = False) -> list[Labelled]:
        """Texts and the names of their classes."""
        rows: list[Labelled] = []
        for where, text, label in self.fields(held_out):
            if not isinstance(text, str) or not text:
                raise InputError(f"{where}: field {self.field!r} is {text!r}, not a text; choose another with --field")
            if not isinstance(label, str | int) or label == "":
                raise InputError(f"{where}: field {self.label_field!r} is {label!r}, not the name or number of a class")
            rows.append((text, str(label)))
        if not rows:
            raise InputError("the files hold no rows; give others")
        return rows

    def key(self, row: Labelled) -> str:
        """The text."""
        return row[0]

    def texts(self, row: Labelled) -> Iterable[str]:
        """The one there is."""
        return row[:1]

    def classes(self, rows: Sequence[Labelled]) -> tuple[str, ...]:
        """Numbers in their order, names behind them. Raises InputError for fewer than two."""
        classes = tuple(sorted({label for _, label in rows}, key=_by_number))
        if len(classes) < 2:
            raise InputError(f"the rows to train on have {len(classes)} classes; at least 2 are needed")
        return classes

    def encode(
        self, rows: Sequence[Labelled], tokenizer: Tokenizer, classes: Sequence[str], length: int
    ) -> list[Example]:
        """The end token, then the text, cut."""
        numbers = {name: i for i, name in enumerate(classes)}
        examples = []
        for (_, label), ids in zip(rows, tokenizer.encode([as_text(text) for text, _ in rows]), strict=True):
            ids = np.concatenate((np.array([tokenizer.end], dtype=ids.dtype), ids[: length - 1]))
            features: dict[str, Any] = {"input_ids": ids, "labels": number_of(label, numbers, "class")}
            examples.append(Example(features, label, len(ids)))
        return examples

    def answers(
        self, model: Any, tokenizer: Tokenizer, examples: Sequence[Example], inputs: dict[str, Tensor], **options: Any
    ) -> list[str]:
        """The likeliest class of each text."""
        names = model.config.class_names
        return [names[i] for i in model(**inputs).logits.argmax(-1).tolist()]

    def score(self, answers: list[str], examples: Sequence[Example], **options: Any) -> Result:
        """Accuracy, and F1 of each class and in the mean."""
        truth = [example.truth for example in examples]
        each = {name: one.value for name, one in f1_by_class(answers, truth).items()}
        scores = {"accuracy": accuracy(answers, truth), "F1 (mean of classes)": mean(list(each.values()))}
        return Result(scores | {f"F1 of {name}": value for name, value in each.items()}, answers)


def _by_number(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)
