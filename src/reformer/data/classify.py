"""Texts with a class each."""

from collections.abc import Sequence

import numpy as np

from reformer.data.examples import Example, Examples, hold_out
from reformer.data.reading import take
from reformer.data.rows import read_rows
from reformer.data.tokens import Tokens, as_text, tokens_for
from reformer.errors import InputError
from reformer.settings.data import DataSettings

Labelled = list[tuple[str, str]]


def read_labelled(paths: Sequence[str], field: str, label_field: str) -> Labelled:
    """Texts and the names of their classes. Raises InputError, with the line, for rows without them."""
    found: Labelled = []
    for where, row in read_rows(paths):
        text, label = take(row, field, where), take(row, label_field, where, "--label-field")
        if not isinstance(text, str) or not text:
            raise InputError(f"{where}: field {field!r} is {text!r}, not a text; choose another with --field")
        if not isinstance(label, str | int) or label == "":
            raise InputError(f"{where}: field {label_field!r} is {label!r}, not the name or number of a class")
        found.append((text, str(label)))
    if not found:
        raise InputError("the files hold no rows; give others")
    return found


def classify_examples(settings: DataSettings, length: int) -> Examples:
    """Examples to classify: the end token, then the text, cut to `length` tokens."""
    files = (settings.files, settings.held_out_files)
    rows, held = (read_labelled(paths, settings.field, settings.label_field) if paths else [] for paths in files)
    rows, held = hold_out(rows, held, settings.held_out, key=lambda row: row[0])
    tokens = tokens_for(settings.tokenizer, (as_text(text) for text, _ in rows))
    classes = tuple(sorted({label for _, label in [*rows, *held]}, key=_by_number))
    if len(classes) < 2:
        raise InputError(f"the rows to train on have {len(classes)} classes; at least 2 are needed")
    return Examples(
        encode_labelled(rows, tokens, classes, length), encode_labelled(held, tokens, classes, length), tokens, classes
    )


def encode_labelled(rows: Labelled, tokens: Tokens, classes: Sequence[str], length: int) -> list[Example]:
    """Examples of texts. Raises InputError for a class that is none of `classes`."""
    numbers = {name: i for i, name in enumerate(classes)}
    examples = []
    for (_, label), ids in zip(rows, tokens.encode([as_text(text) for text, _ in rows]), strict=True):
        if label not in numbers:
            raise InputError(
                f"class {label!r} is none of the {len(classes)} that the model has, "
                f"{', '.join(classes[:5])}…; leave such rows out"
            )
        ids = np.concatenate((np.array([tokens.end], dtype=ids.dtype), ids[: length - 1]))
        examples.append(Example({"input_ids": ids, "labels": numbers[label]}, label, len(ids)))
    return examples


def _by_number(name: str) -> tuple[bool, int, str]:
    """Numbers in their order, names behind them."""
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)
