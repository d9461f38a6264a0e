"""Checks of plain arguments: an InputError that names the value, the limit and the way out."""

from collections.abc import Sequence
from difflib import get_close_matches

from reformer.errors import InputError


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """`value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name}={value!r} is none of {', '.join(choices)}{nearest(str(value), choices)}")


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """`value` is an integer from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}={value!r} must be an integer {limit}")


def check_flag(name: str, value: object) -> None:
    """`value` is True, False or None."""
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{name}={value!r} must be True, False or None")


def check_probability(name: str, value: object) -> None:
    """`value` is a probability below 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise InputError(f"{name}={value!r} must be a number from 0 up to, not including, 1")


def nearest(value: str, choices: Sequence[str]) -> str:
    """A hint at the nearest valid name, or nothing."""
    close = get_close_matches(value, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
