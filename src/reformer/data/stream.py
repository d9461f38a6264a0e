"""A stream of tokens: in memory, in one flat file, or in the very files of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer.data.byte_tokens import FIRST_BYTE
from reformer.data.corpus import Document
from reformer.data.sources import Source
from reformer.data.tokenizer import ByteTokenizer, TokenArray, Tokenizer
from reformer.errors import InputError


class TokenStream(Protocol):
    """Any part of a long row of tokens as an array."""

    def __len__(self) -> int:
        """Tokens."""

    def part(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens from `start` up to, not including, `end`."""


class ArrayStream:
    """Tokens in memory."""

    def __init__(self, tokens: TokenArray) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def part(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens from `start` up to, not including, `end`."""
        return self._tokens[start:end].astype(np.int64)


class Documents(Protocol):
    """The tokens of documents, without ends."""

    def read(self, document: int, start: int, count: int) -> NDArray[Any]:
        """Some consecutive tokens of one of them."""


class FlatFile:
    """Documents one behind the other in a file, mapped into memory; `first` is where each begins, in tokens."""

    def __init__(self, path: Path, dtype: str, first: NDArray[np.int64], shift: int, vocabulary: int) -> None:
        self.path, self.dtype, self.first, self.shift, self.vocabulary = path, dtype, first, shift, vocabulary
        self._numbers: NDArray[Any] | None = None

    def read(self, document: int, start: int, count: int) -> NDArray[Any]:
        """See `Documents`. Raises InputError where there are no tokens of the vocabulary."""
        if self._numbers is None:
            self._numbers = np.memmap(self.path, self.dtype, "r")
        at = int(self.first[document]) + start
        tokens = self._numbers[at : at + count].astype(np.int64) + self.shift
        if len(tokens) < count or tokens.max(initial=0) >= self.vocabulary:
            raise InputError(f"{self.path} is damaged; delete that folder, and the text is prepared again")
        return tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_numbers": None}  # a worker maps the file itself


class PlainFiles:
    """Files of text, each a document, as bytes: nothing is copied, and a file may not change meanwhile."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def read(self, document: int, start: int, count: int) -> NDArray[Any]:
        """See `Documents`. Raises InputError for a file that is not what it was."""
        source = self.sources[document]
        source.check_unchanged()
        content = np.fromfile(source.path, np.uint8, count, offset=start)
        if len(content) < count:
            raise InputError(f"{source.name} has become shorter while it was read; give a copy that stays")
        return content.astype(np.int64) + FIRST_BYTE


class SpanStream:
    """Spans of documents in their order, the end token in front of each."""

    def __init__(
        self,
        documents: Documents,
        end: int,
        which: NDArray[np.int64],
        first: NDArray[np.int64],
        count: NDArray[np.int64],
    ) -> None:
        self.documents, self.end, self.which, self.first = documents, end, which, first
        self.starts = np.concatenate([[0], np.cumsum(count + 1)])  # of each span, its end token included

    def __len__(self) -> int:
        return int(self.starts[-1])

    def part(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens from `start` up to, not including, `end`."""
        end = min(end, len(self))
        out = np.empty(max(end - start, 0), np.int64)
        span = int(np.searchsorted(self.starts, start, "right")) - 1
        filled = 0
        while filled < len(out):
            inside = start + filled - int(self.starts[span])
            if inside == 0:
                out[filled] = self.end
                filled, inside = filled + 1, 1
            count = min(int(self.starts[span + 1] - self.starts[span]) - inside, len(out) - filled)
            if count:
                at = int(self.first[span]) + inside - 1
                out[filled : filled + count] = self.documents.read(int(self.which[span]), at, count)
            filled, span = filled + count, span + 1
        return out


def join_documents(documents: Sequence[Document], tokenizer: Tokenizer | None = None) -> ArrayStream:
    """All documents in one stream, the end token in front of each."""
    tokenizer = tokenizer or ByteTokenizer()
    parts: list[TokenArray] = []
    for text in tokenizer.encode([document.text for document in documents]):
        parts += [np.array([tokenizer.end], dtype=text.dtype), text]
    return ArrayStream(np.concatenate(parts) if parts else np.zeros(0, np.uint16))
