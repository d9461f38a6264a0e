"""Examples of a task: what a model gets, and what its answer is measured against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from reformer.data.reading import document_hash
from reformer.data.tokens import Tokens
from reformer.models.loss import IGNORED

Feature = NDArray[Any] | int
Row = TypeVar("Row")


@dataclass(frozen=True)
class Example:
    """One row of a task."""

    features: dict[str, Feature]
    """Arguments of the model, without padding: tokens and labels [l], classes and positions as numbers."""
    truth: Any
    """What metrics compare with: a class, tags, answers, a text."""
    size: int
    """Tokens, of source and target together."""


@dataclass(frozen=True)
class Examples:
    """What to train on and what is held out."""

    train: list[Example]
    held_out: list[Example]
    tokens: Tokens
    classes: tuple[str, ...] = ()
    """Names of classes or tags, in the order of their numbers."""

    @property
    def fingerprint(self) -> str:
        """Changes with the examples and their tokens."""
        digest = blake2b(repr((self.tokens.identity, self.classes)).encode(), digest_size=16)
        for example in self.train:
            for name, value in example.features.items():
                digest.update(name.encode())
                digest.update(np.asarray(value, dtype=np.int64).tobytes())
        return digest.hexdigest()


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


def hold_out(
    rows: Sequence[Row], held: Sequence[Row], share: float, key: Callable[[Row], str]
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out: those given, else a share of all by the hash of their key."""
    if held:
        return list(rows), list(held)

    def is_held(row: Row) -> bool:
        return document_hash(key(row).encode("utf-8", "surrogatepass")) / 2**64 < share

    return [row for row in rows if not is_held(row)], [row for row in rows if is_held(row)]
