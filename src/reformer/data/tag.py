"""Words with a tag each."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reformer.data.examples import Example, Examples, hold_out
from reformer.data.reading import take
from reformer.data.rows import read_rows
from reformer.data.tokens import Tokens, as_text, tokens_for
from reformer.errors import InputError
from reformer.models.loss import IGNORED
from reformer.settings.data import DataSettings

Tagged = list[tuple[list[str], list[str]]]


def read_tagged(paths: Sequence[str], field: str, label_field: str) -> Tagged:
    """Words and their tags. Raises InputError, with the line, for rows with more of the one than of the other."""
    found: Tagged = []
    for where, row in read_rows(paths):
        words = _words(take(row, field, where), where, field)
        tags = _words(take(row, label_field, where, "--label-field"), where, label_field)
        if len(words) != len(tags):
            raise InputError(f"{where}: {len(words)} words and {len(tags)} tags; each word has one tag")
        if words:
            found.append((words, tags))
    if not found:
        raise InputError("the files hold no rows with words; give others")
    return found


def tag_examples(settings: DataSettings, length: int) -> Examples:
    """Examples to tag: the end token, then the words; the first token of each is to be classified."""
    files = (settings.files, settings.held_out_files)
    rows, held = (read_tagged(paths, settings.field, settings.label_field) if paths else [] for paths in files)
    rows, held = hold_out(rows, held, settings.held_out, key=lambda row: " ".join(row[0]))
    tokens = tokens_for(settings.tokenizer, (as_text(" ".join(words)) for words, _ in rows))
    tags = tuple(sorted({tag for _, row in [*rows, *held] for tag in row}))
    if len(tags) < 2:
        raise InputError(f"the rows to train on have {len(tags)} tags; at least 2 are needed")
    return Examples(encode_tagged(rows, tokens, tags, length), encode_tagged(held, tokens, tags, length), tokens, tags)


def encode_tagged(rows: Tagged, tokens: Tokens, tags: Sequence[str], length: int) -> list[Example]:
    """Examples of words, cut to `length` tokens. Raises InputError for a tag that is none of `tags`."""
    numbers = {name: i for i, name in enumerate(tags)}
    examples = []
    for words, row_tags in rows:
        ids, labels = [tokens.end], [IGNORED]
        texts = [as_text(word if not i else f" {word}") for i, word in enumerate(words)]
        for piece, tag in zip(tokens.encode(texts), row_tags, strict=True):
            if tag not in numbers:
                raise InputError(
                    f"tag {tag!r} is none of the {len(tags)} that the model has, "
                    f"{', '.join(tags[:5])}…; leave such rows out"
                )
            piece = piece if len(piece) else np.array([tokens.mask])  # a word that the tokenizer leaves nothing of
            ids += piece.tolist()
            labels += [numbers[tag]] + [IGNORED] * (len(piece) - 1)
        ids, labels = ids[:length], labels[:length]
        kept = row_tags[: sum(label != IGNORED for label in labels)]
        features: dict[str, Any] = {"input_ids": np.array(ids), "labels": np.array(labels)}
        examples.append(Example(features, kept, len(ids)))
    return examples


def _words(value: object, where: str, field: str) -> list[str]:
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list | tuple) and all(isinstance(word, str | int) for word in value):
        return [str(word) for word in value]
    raise InputError(f"{where}: field {field!r} is {type(value).__name__}, not a list of words or a text of them")
