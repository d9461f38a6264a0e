"""Questions about a context, with answers that stand in it (SQuAD)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reformer.data.examples import Example
from reformer.data.rows import Row, read_rows
from reformer.data.task import Result
from reformer.data.tokenizer import TokenArray, Tokenizer, as_text
from reformer.errors import InputError
from reformer.inference.metrics import exact_match, words_f1
from reformer.settings.data import IGNORED
from reformer.tasks.rows import RowTask, mean

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 64
"""The longest answer, tokens."""

_WORD = re.compile(r"\s?\w+|\s?[^\w\s]|\s")
"""A word or a mark with the space in front of it: what tokenizers do not join either."""


@dataclass(frozen=True)
class Question:
    """A row of the usual form."""

    context: str
    question: str
    answers: tuple[str, ...]
    """Any of them is right; the first one is learned."""
    start: int
    """Characters in front of the first answer."""


@dataclass(frozen=True)
class Answered:
    """What a prediction over tokens is measured against."""

    answers: tuple[str, ...]
    context: TokenArray
    offset: int
    """Tokens in front of the context."""


@dataclass(kw_only=True)
class QuestionAnswering(RowTask):
    """Find the answer to a question in a context."""

    task: str = "qa"

    model_name = "ReformerForQuestionAnswering"

    def rows(self, held_out: bool = False) -> list[Question]:
        """Rows with `context`, `question`, and `answers` as in SQuAD or `answer`, perhaps with `answer_start`."""
        paths = self.held_out_files if held_out else self.files
        rows = [_question(row, where) for where, row in read_rows(paths)]
        if not rows:
            raise InputError("the files hold no questions; give others")
        return rows

    def key(self, row: Question) -> str:
        """The context."""
        return row.context

    def texts(self, row: Question) -> Iterable[str]:
        """Both of them."""
        return row.context, row.question

    def encode(
        self, rows: Sequence[Question], tokenizer: Tokenizer, classes: Sequence[str], length: int
    ) -> list[Example]:
        """End token, question, end token, context, cut; an answer that is cut off has no position to learn."""
        return [_encoded(row, tokenizer, length) for row in rows]

    def answers(
        self, model: Any, tokenizer: Tokenizer, examples: Sequence[Example], inputs: dict[str, Tensor], **options: Any
    ) -> list[str]:
        """The likeliest answer in each context, of at most `LONGEST` tokens."""
        output = model(**inputs)
        logits = [logits.float().cpu().numpy() for logits in (output.start_logits, output.end_logits)]
        answers = []
        for example, starts, ends in zip(examples, *logits, strict=True):
            truth: Answered = example.truth
            inside = slice(truth.offset, truth.offset + len(truth.context))
            first, last = best_span(starts[inside], ends[inside])
            text = tokenizer.as_bytes(truth.context[first : last + 1].tolist())
            answers.append(text.decode("utf-8", "replace").strip())
        return answers

    def score(self, answers: list[str], examples: Sequence[Example], **options: Any) -> Result:
        """Exact match and F1 of words, each against the right answer that fits best."""
        pairs = [(answer, example.truth.answers) for answer, example in zip(answers, examples, strict=True)]
        scores = {
            "exact match": mean([exact_match(*pair) for pair in pairs]),
            "F1 of words": mean([words_f1(*pair) for pair in pairs]),
        }
        return Result(scores, answers)


def best_span(starts: NDArray[np.floating[Any]], ends: NDArray[np.floating[Any]]) -> tuple[int, int]:
    """The start and the end, not before it and less than `LONGEST` tokens on, with the largest sum of logits."""
    if not len(starts):
        return 0, -1
    padded = np.pad(ends, (0, LONGEST - 1), constant_values=-np.inf)
    sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, LONGEST)  # [start, length - 1]
    start, more = divmod(int(sums.argmax()), LONGEST)
    return start, start + more


def _question(row: Row, where: str) -> Question:
    context, question = (row.get(name) for name in ("context", "question"))
    answers = row.get("answers", row.get("answer"))
    given = answers if isinstance(answers, dict) else {"text": answers, "answer_start": row.get("answer_start")}
    texts, starts = (_listed(given.get(name)) for name in ("text", "answer_start"))
    if not texts or not all(isinstance(text, str) and text for text in (context, question, *texts)):
        raise InputError(
            f"{where}: context, question and at least one answer must be texts that are not empty; leave rows without "
            "an answer out"
        )
    starts = [start for start in starts if str(start).isdecimal()]
    assert isinstance(context, str)
    assert isinstance(question, str)
    start = int(starts[0]) if starts else context.find(texts[0])
    if start < 0 or context[start : start + len(texts[0])] != texts[0]:
        raise InputError(f"{where}: the answer {texts[0]!r} does not stand in the context at {max(start, 0)}")
    return Question(context, question, tuple(texts), start)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _encoded(row: Question, tokenizer: Tokenizer, length: int) -> Example:
    question = tokenizer.encode([as_text(row.question)])[0]
    pieces = _WORD.findall(row.context)  # apart, so that tokens say nothing of where the answer is
    parts = tokenizer.encode([as_text(piece) for piece in pieces])
    end = np.array([tokenizer.end], dtype=question.dtype)
    offset = len(question) + 2
    ids = np.concatenate((end, question, end, *parts))[:length]
    start, last = _place(row, pieces, parts, tokenizer)
    learned = offset + last < len(ids)
    features: dict[str, Any] = {
        "input_ids": ids,
        "start_positions": offset + start if learned else IGNORED,
        "end_positions": offset + last if learned else IGNORED,
    }
    return Example(features, Answered(row.answers, ids[offset:], offset), len(ids))


def _place(row: Question, pieces: Sequence[str], parts: Sequence[TokenArray], tokenizer: Tokenizer) -> tuple[int, int]:
    """The first and the last token of the context that hold a part of the answer."""
    ends = np.cumsum([len(piece) for piece in pieces])  # characters up to the end of each piece
    counts = np.cumsum([len(part) for part in parts])  # and tokens
    first = int(np.searchsorted(ends, row.start, side="right"))
    last = int(np.searchsorted(ends, row.start + len(row.answers[0]), side="left"))
    start, end = int(counts[first]) - len(parts[first]), int(counts[last]) - 1
    if tokenizer.per_byte:  # to the byte
        before = row.start - (int(ends[first]) - len(pieces[first]))
        behind = int(ends[last]) - row.start - len(row.answers[0])
        start += len(as_text(pieces[first][:before]))
        end -= len(as_text(pieces[last][len(pieces[last]) - behind :])) if behind else 0
    return start, end
