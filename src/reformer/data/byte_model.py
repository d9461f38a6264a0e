"""What a language model of bytes has to beat: models that count, and a compressor that looks back."""

import lzma
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from reformer.errors import InputError

BACKOFF = 4.0  # weight of the shorter context, in observations
# No header, and no contexts but that of copies: the smallest for texts of some thousand bytes.
_LZMA = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}


def lzma_bits_per_byte(texts: Iterable[bytes]) -> float:
    """What texts take that are compressed each alone, bits per byte of all of them."""
    sizes = [(len(text), len(lzma.compress(text, lzma.FORMAT_RAW, filters=[_LZMA]))) for text in texts]
    return 8 * sum(packed for _, packed in sizes) / sum(size for size, _ in sizes)


class ByteModel:
    """The next byte given the last `order` bytes, interpolated with all shorter contexts.

    p(b | context) = (count(context, b) + BACKOFF * p(b | shorter)) / (count(context) + BACKOFF)
    """

    def __init__(self, text: bytes, order: int) -> None:
        if not 0 <= order <= 2:
            raise InputError(f"order={order} must be 0, 1 or 2: the tables hold 256 ** (order + 1) counts")
        data = np.frombuffer(text, dtype=np.uint8)
        self.order = order
        self.counts = [
            np.bincount(_context(data, k + 1), minlength=256 ** (k + 1)).reshape(-1, 256) for k in range(order + 1)
        ]

    def bits_per_byte(self, text: bytes) -> float:
        """Cross-entropy of a text, bits per byte, from its byte number `order` on."""
        data = np.frombuffer(text, dtype=np.uint8)
        following = data[self.order :]
        p: NDArray[np.float64] = np.full(len(following), 1 / 256)
        for k, counts in enumerate(self.counts):
            context = _context(data[self.order - k : len(data) - 1], k) if k else np.zeros(len(following), np.int64)
            totals = counts.sum(1)
            p = (counts[context, following] + BACKOFF * p) / (totals[context] + BACKOFF)
        return float(-np.log2(p).mean())


def _context(data: NDArray[np.uint8], length: int) -> NDArray[np.int64]:
    """Every run of `length` bytes as one number."""
    wide = data.astype(np.int64)
    runs = len(wide) - length + 1
    value = np.zeros(max(runs, 0), dtype=np.int64)
    for i in range(length):
        value = value * 256 + wide[i : i + len(value)]
    return value
