"""Raw bytes as tokens: byte + 3, behind padding (0), end of text (1) and unknown (2), as ByT5 numbers them.

Unlike ByT5's tokenizer this keeps bytes that are not UTF-8.
"""

import codecs

import numpy as np
from numpy.typing import NDArray

PAD, END, UNKNOWN, FIRST_BYTE = 0, 1, 2, 3
VOCABULARY = FIRST_BYTE + 256

TokenArray = NDArray[np.uint16]


def encode(text: bytes) -> TokenArray:
    """Tokens of a text, without special ones."""
    return np.frombuffer(text, dtype=np.uint8).astype(np.uint16) + FIRST_BYTE


class ByteDecoder:
    """Tokens back to text, one at a time; bytes that are not UTF-8 show as U+FFFD."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that this token completes, perhaps none; special tokens have none."""
        return self._utf8.decode(bytes([token - FIRST_BYTE])) if token >= FIRST_BYTE else ""

    def finish(self) -> str:
        """What an incomplete character at the end shows as."""
        return self._utf8.decode(b"", final=True)
