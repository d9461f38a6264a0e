"""Questions about a context, with answers that stand in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reformer.data.examples import Example, Examples, hold_out
from reformer.data.reading import take
from reformer.data.rows import Row, read_rows
from reformer.data.settings import DataSettings
from reformer.data.tokens import TokenArray, Tokens, as_text, tokens_for
from reformer.models.loss import IGNORED


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

    Raises ValueError, with the line, for an answer that does not stand in its context.
    """
    found = [_question(row, where) for where, row in read_rows(paths)]
    if not found:
        raise ValueError("the files hold no questions; give others")
    return found


def _question(row: Row, where: str) -> Question:
    context, question = (take(row, name, where) for name in ("context", "question"))
    answers = row.get("answers")
    if isinstance(answers, dict):
        texts, starts = list(answers.get("text", ())), list(answers.get("answer_start", ()))
    else:
        texts = answers if isinstance(answers, list) else [take(row, "answer", where)]
        starts = [int(row["answer_start"])] if str(row.get("answer_start", "")).isdecimal() else []
    if not texts or not all(isinstance(text, str) and text for text in (context, question, *texts)):
        raise ValueError(f"{where}: context, question and at least one answer must be texts that are not empty")
    start = int(starts[0]) if starts else context.find(texts[0])
    if start < 0 or context[start : start + len(texts[0])] != texts[0]:
        raise ValueError(f"{where}: the answer {texts[0]!r} does not stand in the context at {max(start, 0)}")
    return Question(context, question, tuple(texts), start)


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
        before, answer, behind = (
            row.context[: row.start],
            row.answers[0],
            row.context[row.start + len(row.answers[0]) :],
        )  # encoded apart, so that the answer begins and ends with a token
        parts = tokens.encode([as_text(text) for text in (row.question, before, answer, behind)])
        end = np.array([tokens.end], dtype=parts[0].dtype)
        offset = len(parts[0]) + 2
        start = offset + len(parts[1])
        last = start + len(parts[2]) - 1
        ids = np.concatenate((end, parts[0], end, *parts[1:]))[:length]
        learned = last < len(ids)
        features: dict[str, Any] = {
            "input_ids": ids,
            "start_positions": start if learned else IGNORED,
            "end_positions": last if learned else IGNORED,
        }
        examples.append(Example(features, Answered(row.answers, ids[offset:], offset), len(ids)))
    return examples
