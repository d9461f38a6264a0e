"""A stream of tokens, in memory or in a memory-mapped file of rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer.data.corpus import Document
from reformer.data.tokens import ByteTokens, TokenArray, Tokens


class TokenStream:
    """Any part of a long row of tokens as an array."""

    def __init__(self, tokens: TokenArray) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def part(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens from `start` up to, not including, `end`."""
        return self._tokens[start:end].astype(np.int64)


class MappedStream(TokenStream):
    """Tokens in an Arrow file of `datasets`: rows of equal length, but for the last one."""

    def __init__(self, path: Path, length: int) -> None:
        from datasets import Dataset

        rows: Any = Dataset.from_file(str(path))
        self._rows, self._length = rows.with_format("numpy"), length
        self._total = (len(rows) - 1) * length + len(self._row(len(rows) - 1)) if len(rows) else 0

    def __len__(self) -> int:
        return self._total

    def _row(self, index: int) -> TokenArray:
        return np.asarray(self._rows[index]["tokens"])

    def part(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens from `start` up to, not including, `end`."""
        end = min(end, self._total)
        if start >= end:
            return np.zeros(0, np.int64)
        first = start // self._length
        rows = [self._row(i) for i in range(first, (end - 1) // self._length + 1)]
        offset = first * self._length
        return np.concatenate(rows)[start - offset : end - offset].astype(np.int64)


def join_documents(documents: Sequence[Document], tokens: Tokens | None = None) -> TokenStream:
    """All documents in one stream, the end token in front of each."""
    tokens = tokens or ByteTokens()
    parts: list[TokenArray] = []
    for text in tokens.encode([document.text for document in documents]):
        parts += [np.array([tokens.end], dtype=text.dtype), text]
    return TokenStream(np.concatenate(parts) if parts else np.zeros(0, np.uint16))
