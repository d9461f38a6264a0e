"""Windows of tokens, for training and for evaluation."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from reformer.data.corpus import Document
from reformer.data.pace import Pace
from reformer.data.stream import TokenStream, join_documents
from reformer.data.tokenizer import Tokenizer
from reformer.settings.data import IGNORED
from reformer.settings.phases import Phase


class TrainingWindows(Dataset[dict[str, Tensor]]):
    """The windows of a whole run in their order, which depends on the seed and on nothing else.

    Each pass over the stream takes every window of one grid once, in a new order; the grid begins at a random token
    of the first window's, anew in each pass. A stream that is shorter than a window is one window. `rows` are those of
    a step; `past` is that of the run's `Pace`.
    """

    def __init__(
        self, stream: TokenStream, phases: Sequence[Phase], rows: int, seed: int, past: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.stream, self.phases, self.pace, self.seed = stream, phases, Pace(rows, past), seed
        self._order: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.pace.items * sum(phase.steps for phase in self.phases)

    def grid(self, length: int) -> int:
        """Windows of a pass."""
        return max((len(self.stream) - length + 1) // length, 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        step, window = self.pace.locate(index)
        begun = 0
        for number, phase in enumerate(self.phases):  # noqa: B007
            if step < begun + phase.steps:
                break
            begun += phase.steps
        length = min(phase.length, len(self.stream))
        turn, place = divmod(window - self.pace.before(begun), self.grid(length))
        start = self._starts(number, turn, length)[place]
        tokens = torch.from_numpy(self.stream.part(start, start + length))
        return {"input_ids": tokens, "labels": tokens}

    def row(self, index: int) -> int:
        """The number among all rows of the run."""
        return self.pace.locate(index)[1]

    def _starts(self, phase: int, turn: int, length: int) -> NDArray[np.int64]:
        """First tokens of the windows of a pass, in their order."""
        if self._order is None or self._order[0] != (phase, turn):
            windows = self.grid(length)
            random = np.random.default_rng((self.seed, phase, turn))
            offset = random.integers(min(length - 1, len(self.stream) - windows * length), endpoint=True)
            self._order = ((phase, turn), random.permutation(windows) * length + offset)
        return self._order[1]


def row_of(windows: Any, index: int) -> int:
    """The number of a window in its run, which stays where the number of processes changes: draws are keyed by it."""
    return windows.row(index) if hasattr(windows, "row") else index


class HeldOutWindows(Dataset[dict[str, Tensor]]):
    """Windows that predict each token once, or as many of them, spread over the stream, as `most` tokens have."""

    def __init__(self, stream: TokenStream, length: int, most: int | None = None) -> None:
        self.stream, self.length = stream, length
        windows = max(-(-(len(stream) - 1) // (length - 1)), 0)
        kept = windows if most is None else min(windows, max(most // length, 1))
        self.starts = np.linspace(0, windows - 1, kept).round().astype(np.int64) * (length - 1)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = int(self.starts[index])
        tokens = torch.from_numpy(self.stream.part(start, start + self.length))
        return {"input_ids": tokens, "labels": tokens}


class FilledUp(Dataset[dict[str, Tensor]]):
    """As many windows as are a multiple of some number: those that are not there predict nothing."""

    def __init__(self, windows: Any, multiple: int) -> None:
        self.windows, self.size = windows, -(-len(windows) // multiple) * multiple

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index < len(self.windows):
            window: dict[str, Tensor] = self.windows[index]
            return window
        first = self.windows[0]
        return {**first, "labels": torch.full_like(first["labels"], IGNORED)}


class Collate:
    """Windows to a batch: shorter ones padded, pieces marked, and documents where they are kept apart.

    `shifted`: labels are predicted by the token before, as a causal model does.
    """

    def __init__(self, tokenizer: Tokenizer, apart: bool = False, shifted: bool = False) -> None:
        self.pad, self.end, self.apart, self.shifted = tokenizer.pad, tokenizer.end, apart, shifted

    def __call__(self, windows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        rows = [window["input_ids"] for window in windows]
        lengths = torch.tensor([len(row) for row in rows])
        input_ids = pad_sequence(rows, batch_first=True, padding_value=self.pad)
        real = torch.arange(input_ids.shape[1]) < lengths[:, None]
        labels = pad_sequence([window["labels"] for window in windows], batch_first=True, padding_value=IGNORED)
        batch = {"input_ids": input_ids, "labels": labels}
        if not real.all():
            batch["attention_mask"] = real.long()
        starts = torch.zeros_like(input_ids, dtype=torch.bool)
        for row, window in enumerate(windows):
            if "segment_ids" in window:
                starts[row, 1 : lengths[row]] = window["segment_ids"].diff() != 0
        if self.apart:
            ends = (input_ids == self.end) & real
            batch["labels"][ends] = IGNORED  # no document predicts the next one's beginning
            starts |= ends
        if self.shifted:  # nothing predicts them: counts of labels then are counts of what is predicted
            batch["labels"][starts] = IGNORED
        if self.apart or starts.any():
            batch["segment_ids"] = starts.cumsum(1)
        return batch


def evaluation_windows(
    document: Document, tokenizer: Tokenizer, length: int, stride: int
) -> Iterator[tuple[Tensor, int]]:
    """Windows of at most `length` tokens and how many of their last ones to predict: each token once.

    Windows are `stride` tokens apart, so that all but the first predict their last `stride` tokens.
    """
    stream = join_documents([document], tokenizer)
    done = 1
    while done < len(stream):
        end = min(length if done == 1 else done + stride, len(stream))
        yield torch.from_numpy(stream.part(max(end - length, 0), end)), end - done
        done = end
