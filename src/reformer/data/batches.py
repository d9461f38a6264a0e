"""Examples in batches of like length, in an order that depends on the seed and on nothing else."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from reformer.data.examples import Example
from reformer.data.pace import Pace
from reformer.settings.data import IGNORED

POOL = 64
"""Batches whose examples are sorted by length together."""


class TrainingBatches(Dataset[list[Example]]):
    """The micro-batches of a whole run; each pass over the examples takes every one of them once.

    A batch has `batch_size` examples, or as many as fit into `batch_tokens` padded tokens: at least one. `pace` is
    that of a run that has gone on with another number of processes.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batches: int,
        batch_size: int,
        batch_tokens: int = 0,
        seed: int = 0,
        pace: Pace = Pace(1),  # noqa: B008 - frozen
    ) -> None:
        self.examples, self.batches, self.seed, self.pace = examples, batches, seed, pace
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.sizes = np.array([example.size for example in examples])
        self._passes: list[int] = []  # batches up to the end of each pass
        self._current: tuple[int, list[NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> list[Example]:
        if not 0 <= index < self.batches:
            raise IndexError(index)
        _, index = self.pace.locate(index)
        turn = 0
        while turn < len(self._passes) and self._passes[turn] <= index:
            turn += 1
        while turn == len(self._passes):
            self._passes.append((self._passes[-1] if self._passes else 0) + len(self._plan(turn)))
            turn += self._passes[-1] <= index
        before = self._passes[turn - 1] if turn else 0
        return [self.examples[i] for i in self._plan(turn)[index - before]]

    def _plan(self, turn: int) -> list[NDArray[np.int64]]:
        """The batches of a pass."""
        if self._current is None or self._current[0] != turn:
            random = np.random.default_rng((self.seed, turn))
            order = random.permutation(len(self.examples))
            per_batch = self.batch_size
            if self.batch_tokens:
                per_batch = max(int(self.batch_tokens // max(self.sizes.mean(), 1)), 1)
            pools = np.array_split(order, max(len(order) // (POOL * per_batch), 1))
            batches = [
                batch for pool in pools for batch in self._cut(pool[np.argsort(self.sizes[pool], kind="stable")])
            ]
            self._current = (turn, [batches[i] for i in random.permutation(len(batches))])
        return self._current[1]

    def _cut(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        start = 0
        for end in range(1, len(order) + 1):
            full = end - start == self.batch_size
            if self.batch_tokens:
                full = end < len(order) and self.sizes[order[end]] * (end + 1 - start) > self.batch_tokens
            if full or end == len(order):
                yield order[start:end]
                start = end


class ExampleCollate:
    """Examples to a batch, padded on the right; takes single ones and lists of them."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, given: Sequence[Example | list[Example]]) -> dict[str, Tensor]:
        examples = [e for one in given for e in (one if isinstance(one, list) else [one])]
        batch: dict[str, Tensor] = {}
        for name, first in examples[0].features.items():
            values = [example.features[name] for example in examples]
            if isinstance(first, int):
                batch[name] = torch.tensor(values)
                continue
            rows = [torch.from_numpy(np.asarray(value, dtype=np.int64)) for value in values]
            fill = IGNORED if name == "labels" else self.pad
            batch[name] = pad_sequence(rows, batch_first=True, padding_value=fill)
        lengths = torch.tensor([len(np.atleast_1d(example.features["input_ids"])) for example in examples])
        real = torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]
        if not real.all():
            batch["attention_mask"] = real.long()
        return batch


class ExampleDataset(Dataset[Example]):
    """Examples one by one."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]
