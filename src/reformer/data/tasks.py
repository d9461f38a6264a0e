"""The examples of each task that has rows."""

from collections.abc import Callable, Sequence

from reformer.data.classify import classify_examples, encode_labelled, read_labelled
from reformer.data.examples import Example, Examples
from reformer.data.question import encode_questions, question_examples, read_questions
from reformer.data.tag import encode_tagged, read_tagged, tag_examples
from reformer.data.tokens import Tokens
from reformer.data.translate import encode_pairs, read_pairs, translate_examples
from reformer.errors import InputError
from reformer.settings.data import DataSettings

_READERS: dict[str, Callable[[DataSettings, int], Examples]] = {
    "classify": classify_examples,
    "tag": tag_examples,
    "qa": question_examples,
    "translate": translate_examples,
}


def read_examples(settings: DataSettings, length: int) -> Examples:
    """The examples of a task, each of at most `length` tokens (a side).

    Raises InputError for rows that do not fit the task, and where there are none to train on.
    """
    if settings.task != "translate" and not settings.files:
        raise InputError(f"task={settings.task!r} needs files with rows: .jsonl, .csv, .tsv, .parquet")
    examples = _READERS[settings.task](settings, length)
    if not examples.train:
        raise InputError(f"held_out={settings.held_out} leaves nothing to train on; lower it, or give more rows")
    return examples


def read_to_evaluate(settings: DataSettings, tokens: Tokens, classes: Sequence[str], length: int) -> list[Example]:
    """All rows of a task as examples for a model that has these tokens and classes.

    Raises InputError for rows that do not fit the task or the model, and where there are none.
    """
    if settings.task == "translate":
        if not settings.source:
            raise InputError("a model that translates is measured on pairs; give --source and --target")
        return encode_pairs(read_pairs(settings.source, settings.target), tokens)
    if not settings.files:
        raise InputError(f"a model for task={settings.task!r} is measured on files with rows; give some")
    if settings.task == "qa":
        return encode_questions(read_questions(settings.files), tokens, length)
    fields = settings.field, settings.label_field
    if settings.task == "tag":
        return encode_tagged(read_tagged(settings.files, *fields), tokens, classes, length)
    return encode_labelled(read_labelled(settings.files, *fields), tokens, classes, length)
