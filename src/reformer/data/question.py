"""Questions about a context, with answers that stand in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer.data.examples import Example, Examples, hold_out
from reformer.data.rows import Row, read_rows
from reformer.data.tokens import TokenArray, Tokens, as_text, tokens_for
from reformer.errors import InputError
from reformer.models.loss import IGNORED
from reformer.settings.data import DataSettings

_WORD = re.compile(r"\s?\w+|\s?[^\w\s]|\s")
"""A word or a mark with the space in front of it: what tokenizers do not join either."""


@dataclass(frozen=True)
class Question:
    """A row of the usual form (SQuAD)."""

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


def read_questions(paths: Sequence[str]) -> list[Question]:
    """Rows with `context`, `question`, and either `answers` as in SQuAD or `answer`, perhaps with `answer_start`.

    Raises InputError, with the line, for an answer that does not stand in its context.
    """
    found = [_question(row, where) for where, row in read_rows(paths)]
    if not found:
        raise InputError("the files hold no questions; give others")
    return found


def _question(row: Row, where: str) -> Question:
    context, question = (row.get(name) for name in ("context", "question"))
    answers = row.get("answers", row.get("answer"))
    found = answers if isinstance(answers, dict) else {"text": answers, "answer_start": row.get("answer_start")}
    texts, starts = (_listed(found.get(name)) for name in ("text", "answer_start"))
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


def question_examples(settings: DataSettings, length: int) -> Examples:
    """Examples to answer: end token, question, end token, context, cut to `length` tokens."""
    rows, held = (read_questions(paths) if paths else [] for paths in (settings.files, settings.held_out_files))
    rows, held = hold_out(rows, held, settings.held_out, key=lambda row: row.context)
    tokens = tokens_for(settings.tokenizer, (as_text(text) for row in rows for text in (row.context, row.question)))
    return Examples(encode_questions(rows, tokens, length), encode_questions(held, tokens, length), tokens)


def encode_questions(rows: Sequence[Question], tokens: Tokens, length: int) -> list[Example]:
    """Examples of questions; an answer that is cut off has no position to learn."""
    examples = []
    for row in rows:
        question = tokens.encode([as_text(row.question)])[0]
        pieces = _WORD.findall(row.context)  # apart, so that tokens say nothing of where the answer is
        parts = tokens.encode([as_text(piece) for piece in pieces])
        ends = np.cumsum([len(piece) for piece in pieces])  # characters up to the end of each piece
        counts = np.cumsum([len(part) for part in parts])  # and tokens
        end = np.array([tokens.end], dtype=question.dtype)
        offset = len(question) + 2
        ids = np.concatenate((end, question, end, *parts))[:length]
        start, last = _place(row, pieces, parts, ends, counts, tokens)
        learned = offset + last < len(ids)
        features: dict[str, Any] = {
            "input_ids": ids,
            "start_positions": offset + start if learned else IGNORED,
            "end_positions": offset + last if learned else IGNORED,
        }
        examples.append(Example(features, Answered(row.answers, ids[offset:], offset), len(ids)))
    return examples


def _place(
    row: Question,
    pieces: Sequence[str],
    parts: Sequence[TokenArray],
    ends: NDArray[np.int64],
    counts: NDArray[np.int64],
    tokens: Tokens,
) -> tuple[int, int]:
    """The first and the last token of the context that hold a part of the answer."""
    first = int(np.searchsorted(ends, row.start, side="right"))
    last = int(np.searchsorted(ends, row.start + len(row.answers[0]), side="left"))
    start, end = int(counts[first]) - len(parts[first]), int(counts[last]) - 1
    if tokens.per_byte:  # to the byte
        before = row.start - (int(ends[first]) - len(pieces[first]))
        behind = int(ends[last]) - row.start - len(row.answers[0])
        start += len(as_text(pieces[first][:before]))
        end -= len(as_text(pieces[last][len(pieces[last]) - behind :])) if behind else 0
    return start, end
