"""Words with a tag each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reformer.data.examples import Example
from reformer.data.task import Result
from reformer.data.tokenizer import Tokenizer, as_text
from reformer.errors import InputError
from reformer.inference.metrics import accuracy, f1_by_class, has_spans, spans_f1
from reformer.settings.data import IGNORED
from reformer.tasks.rows import LabelledTask, mean, number_of

if TYPE_CHECKING:
    from torch import Tensor

Tagged = tuple[list[str], list[str]]
"""Words and their tags."""


@dataclass(kw_only=True)
class Tag(LabelledTask):
    """Tag each word of a text."""

    task: str = "tag"

    model_name = "ReformerForTokenClassification"

    def rows(self, held_out: bool = False) -> list[Tagged]:
        """Words and as many tags."""
        rows: list[Tagged] = []
        for where, text, label in self.fields(held_out):
            words, tags = _words(text, where, self.field), _words(label, where, self.label_field)
            if len(words) != len(tags):
                raise InputError(f"{where}: {len(words)} words and {len(tags)} tags; each word has one tag")
            if words:
                rows.append((words, tags))
        if not rows:
            raise InputError("the files hold no rows with words; give others")
        return rows

    def key(self, row: Tagged) -> str:
        """The words."""
        return " ".join(row[0])

    def texts(self, row: Tagged) -> Iterable[str]:
        """The words, as a text."""
        return (self.key(row),)

    def classes(self, rows: Sequence[Tagged]) -> tuple[str, ...]:
        """The tags. Raises InputError for fewer than two."""
        tags = tuple(sorted({tag for _, row in rows for tag in row}))
        if len(tags) < 2:
            raise InputError(f"the rows to train on have {len(tags)} tags; at least 2 are needed")
        return tags

    def encode(
        self, rows: Sequence[Tagged], tokenizer: Tokenizer, classes: Sequence[str], length: int
    ) -> list[Example]:
        """The end token, then the words, cut; the first token of each is to be classified."""
        numbers = {name: i for i, name in enumerate(classes)}
        examples = []
        for words, tags in rows:
            ids, labels = [tokenizer.end], [IGNORED]
            texts = [as_text(word if not i else f" {word}") for i, word in enumerate(words)]
            for piece, tag in zip(tokenizer.encode(texts), tags, strict=True):
                piece = piece if len(piece) else np.array([tokenizer.mask])  # the tokenizer leaves nothing of the word
                ids += piece.tolist()
                labels += [number_of(tag, numbers, "tag")] + [IGNORED] * (len(piece) - 1)
            ids, labels = ids[:length], labels[:length]
            kept = tags[: sum(label != IGNORED for label in labels)]
            examples.append(Example({"input_ids": np.array(ids), "labels": np.array(labels)}, kept, len(ids)))
        return examples

    def answers(
        self, model: Any, tokenizer: Tokenizer, examples: Sequence[Example], inputs: dict[str, Tensor], **options: Any
    ) -> list[list[str]]:
        """The likeliest tag of each word."""
        names = model.config.class_names
        likeliest = model(**inputs).logits.argmax(-1).cpu().numpy()
        asked = [np.flatnonzero(np.asarray(example.features["labels"]) != IGNORED) for example in examples]
        return [[names[i] for i in row[places].tolist()] for row, places in zip(likeliest, asked, strict=True)]

    def score(self, answers: list[list[str]], examples: Sequence[Example], **options: Any) -> Result:
        """Accuracy, and F1: of whole spans where the tags name some (B-, I-), else of each tag in the mean."""
        truth = [example.truth for example in examples]
        flat = [tag for row in answers for tag in row], [tag for row in truth for tag in row]
        scores = {"accuracy": accuracy(*flat)}
        if has_spans(flat[1]):
            spans = spans_f1(answers, truth)
            scores |= {"F1 of spans": spans.value, "precision": spans.precision, "recall": spans.recall}
        else:
            scores |= {"F1 (mean of tags)": mean([one.value for one in f1_by_class(*flat).values()])}
        return Result(scores, answers)


def _words(value: object, where: str, field: str) -> list[str]:
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list | tuple) and all(isinstance(word, str | int) for word in value):
        return [str(word) for word in value]
    raise InputError(f"{where}: field {field!r} is {type(value).__name__}, not a list of words or a text of them")
