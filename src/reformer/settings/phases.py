"""Lengths of windows over a run, without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Steps in which windows have one length."""

    length: int
    """Tokens."""
    steps: int
    """How many."""
