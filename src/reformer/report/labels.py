"""Tokens of a text, and what people see of each."""

import sys
import tempfile
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from reformer.data.reading import read_pieces
from reformer.data.sources import STANDARD_INPUT, find_sources
from reformer.data.tokenizer import Tokenizer
from reformer.report.inspect import shown

ENOUGH = 32
"""Bytes of text that are read for a token."""


def read_tokens(path: str, tokenizer: Tokenizer, most: int) -> tuple[Int[Tensor, "1 l"], list[str], bool]:
    """The first tokens of a file, or of standard input, a label for each, and whether there are more.

    Raises InputError for what cannot be read.
    """
    size = most if tokenizer.per_byte else most * ENOUGH
    text = sys.stdin.buffer.read(size + 1) if path == STANDARD_INPUT else _beginning(path, size + 1)
    tokens = tokenizer.encode([text[:size]])[0]
    kept = [int(token) for token in tokens[:most]]
    more = len(text) > size or len(tokens) > most
    return torch.tensor([kept], dtype=torch.long).view(1, -1), labels_of(kept, tokenizer), more


def _beginning(path: str, size: int) -> bytes:
    found = b""
    with tempfile.TemporaryDirectory() as scratch:
        for source in find_sources([path], Path(scratch), False):
            for piece in read_pieces(source, "text"):
                found += piece.text
                if len(found) >= size:
                    return found[:size]
    return found


def labels_of(tokens: list[int], tokenizer: Tokenizer) -> list[str]:
    """What is seen of each token: of bytes that make a letter together, the letter with the first one of them."""
    if not tokenizer.per_byte:
        return [_of_bytes(tokenizer.as_bytes([token])) for token in tokens]
    labels: list[str] = []
    text = tokenizer.as_bytes(tokens)
    while len(labels) < len(text):
        at = len(labels)
        size = next((n for n in (1, 2, 3, 4) if _is_letter(text[at : at + n])), 0)
        labels += (
            [shown(text[at : at + size].decode()), *["\u00b7"] * (size - 1)] if size else [_raw(text[at : at + 1])]
        )
    return labels


def _is_letter(piece: bytes) -> bool:
    try:
        return len(piece.decode()) == 1
    except UnicodeDecodeError:
        return False


def _of_bytes(piece: bytes) -> str:
    try:
        return shown(piece.decode())
    except UnicodeDecodeError:
        return _raw(piece)


def _raw(piece: bytes) -> str:
    return "".join(f"\u27e8{byte:02x}\u27e9" for byte in piece) or "\u00b7"
