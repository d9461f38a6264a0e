"""Pairs of lines: sources and their targets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reformer.data.examples import Example, Examples, hold_out
from reformer.data.reading import opened
from reformer.data.sources import find_sources
from reformer.data.tokens import Tokens, as_text, tokens_for
from reformer.errors import InputError
from reformer.settings.data import DataSettings

Pairs = list[tuple[str, str]]


def read_lines(paths: Sequence[str | Path]) -> list[str]:
    """The lines of text files, plain or .gz, without their ends. Raises InputError for what is no text."""
    lines: list[str] = []
    for source in find_sources(paths):
        try:
            with opened(source) as file:
                text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{source.name} is not UTF-8; save the file as UTF-8") from None
        lines += [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    return lines


def read_pairs(source: Sequence[str], target: Sequence[str]) -> Pairs:
    """Lines that stand side by side, neither of them empty. Raises InputError for files of other lengths."""
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise InputError(
            f"{', '.join(source)} has {len(sources):,} lines and {', '.join(target)} {len(targets):,}; each source "
            "has its target on the same line"
        )
    pairs = [pair for pair in zip(sources, targets, strict=True) if pair[0].strip() and pair[1].strip()]
    if not pairs:
        raise InputError("the files hold no pair of lines; give others")
    return pairs


def translate_examples(settings: DataSettings, length: int) -> Examples:
    """Pairs to translate, each side with the end token behind it; pairs over `length` tokens are left out.

    Raises InputError where no pair is left.
    """
    if not settings.source:
        raise InputError("task='translate' needs --source and --target, files with a sentence a line")
    pairs = read_pairs(settings.source, settings.target)
    held = read_pairs(settings.held_out_source, settings.held_out_target) if settings.held_out_source else []
    pairs, held = hold_out(pairs, held, settings.held_out, key=lambda pair: pair[0])
    tokens = tokens_for(settings.tokenizer, (as_text(text) for pair in pairs for text in pair))
    train, kept = (
        [e for e in encode_pairs(part, tokens) if max(map(len, e.features.values())) <= length]  # type: ignore[arg-type]
        for part in (pairs, held)
    )
    if not train:
        raise InputError(f"no pair has at most length={length} tokens a side; raise --length")
    return Examples(train, kept, tokens)


def encode_pairs(pairs: Pairs, tokens: Tokens) -> list[Example]:
    """Examples of pairs."""
    sides = [tokens.encode([as_text(pair[side]) for pair in pairs]) for side in (0, 1)]
    examples = []
    for (_, target), source_ids, target_ids in zip(pairs, *sides, strict=True):
        features: dict[str, Any] = {
            "input_ids": np.append(source_ids, source_ids.dtype.type(tokens.end)),
            "labels": np.append(target_ids, target_ids.dtype.type(tokens.end)),
        }
        examples.append(Example(features, target, len(source_ids) + len(target_ids) + 2))
    return examples
