"""Windows of tokens, for training and for evaluation."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from reformer.data.byte_tokens import END, TokenArray, encode
from reformer.data.corpus import Document


def join_documents(documents: Sequence[Document]) -> TokenArray:
    """All documents in one stream, the end token in front of each."""
    parts: list[TokenArray] = []
    for document in documents:
        parts += [np.array([END], dtype=np.int16), encode(document.text)]
    return np.concatenate(parts)


class TrainingWindows(Dataset[dict[str, Tensor]]):
    """Consecutive windows of `length` tokens; a stream that is shorter than one window is one window."""

    def __init__(self, stream: TokenArray, length: int) -> None:
        self.stream, self.length = stream, min(length, len(stream))

    def __len__(self) -> int:
        return len(self.stream) // self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = self.stream[index * self.length : (index + 1) * self.length].astype(np.int64)
        return {"input_ids": torch.from_numpy(tokens), "labels": torch.from_numpy(tokens)}


def evaluation_windows(document: Document, length: int) -> Iterator[NDArray[np.int64]]:
    """Windows of at most `length` tokens that predict each byte once: each begins with the last one's end."""
    stream = join_documents([document]).astype(np.int64)
    for start in range(0, len(stream) - 1, length - 1):
        yield stream[start : start + length]
