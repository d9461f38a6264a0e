"""Examples of a task: what a model gets, and what its answer is measured against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reformer.data.reading import document_hash
from reformer.data.tokenizer import Tokenizer

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
    tokenizer: Tokenizer
    classes: tuple[str, ...] = ()
    """Names of classes or tags, in the order of their numbers."""

    @property
    def fingerprint(self) -> str:
        """Changes with the examples and their tokens."""
        digest = blake2b(repr((self.tokenizer.identity, self.classes)).encode(), digest_size=16)
        for example in self.train:
            for name, value in example.features.items():
                digest.update(name.encode())
                digest.update(np.asarray(value, dtype=np.int64).tobytes())
        return digest.hexdigest()


def hold_out(
    rows: Sequence[Row], held: Sequence[Row], share: float, key: Callable[[Row], str]
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out: those given, else a share of all by the hash of their key."""
    if held:
        return list(rows), list(held)

    def is_held(row: Row) -> bool:
        return document_hash(key(row).encode("utf-8", "surrogatepass")) / 2**64 < share

    return [row for row in rows if not is_held(row)], [row for row in rows if is_held(row)]
