"""What a computation keeps for its second run: values that must not be worked out anew.

A reversible block runs its branches again in the backward, on inputs that agree with the first ones to rounding
only. Hashing them again could choose other buckets, so the first run writes them on a tape and the second reads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Tape:
    """Values in the order in which a first run remembered them."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.reading: Iterator[Any] | None = None

    @contextmanager
    def record(self) -> Iterator[None]:
        """Write what is remembered inside on this tape."""
        token = _tape.set(self)
        try:
            yield
        finally:
            _tape.reset(token)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Give back, in order, what was recorded."""
        self.reading = iter(self.values)
        token = _tape.set(self)
        try:
            yield
        finally:
            _tape.reset(token)
            self.reading = None


_tape: ContextVar[Tape | None] = ContextVar("reformer_tape", default=None)


def is_remembering() -> bool:
    """Whether this is a run of a branch of a reversible block, the first or the second; never in a compiled graph."""
    return not torch.compiler.is_compiling() and _tape.get() is not None


def is_second_run() -> bool:
    """Whether this is the second run of a branch."""
    tape = _tape.get()
    return tape is not None and tape.reading is not None


def remembered(compute: Callable[[], T]) -> T:
    """`compute()`, or, in the second run of a reversible block, what it was in the first."""
    tape = _tape.get()
    if tape is None:
        return compute()
    if tape.reading is not None:
        value: T | None = next(tape.reading, None)
        if value is None:
            raise RuntimeError("a branch of a reversible block remembers more in its second run than in its first")
        return value
    made = compute()
    tape.values.append(made)
    return made
