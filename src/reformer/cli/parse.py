"""Command lines to dataclasses by tyro; what it finds wrong becomes one line."""

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import TypeVar

import tyro

from reformer.errors import InputError
from reformer.settings.base import RENAMED

T = TypeVar("T")

TEXTS = ("--prompt", "--stop")
"""Flags whose values are texts, which say themselves what an empty one would mean."""


def parse(command: type[T], argv: Sequence[str], verb: str, default: T | None = None) -> T:
    """Parse, or print the help and exit with 0; InputError for a command line that does not fit."""
    _refuse_empty(argv)
    errors = io.StringIO()
    marked = tyro.conf.OmitArgPrefixes[command]  # type: ignore[valid-type]
    try:
        with redirect_stderr(errors), warnings.catch_warnings(action="ignore"):
            return tyro.cli(marked, prog=f"reformer {verb}", args=list(argv), default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError((_one_line(errors.getvalue()) or f"see reformer {verb} --help") + _renamed(argv)) from None


def _refuse_empty(argv: Sequence[str]) -> None:
    """InputError for a flag with an empty value, as a variable that is not set gives."""
    words = [*argv, None]
    for word, following in zip(argv, words[1:], strict=True):
        flag = word.removesuffix("=")
        if word.startswith("--") and (following == "" or word.endswith("=")) and flag not in TEXTS:
            raise InputError(f"{flag} is empty; give a value, or leave it out (is a variable not set?)")


def _renamed(argv: Sequence[str]) -> str:
    """What options of before are called now."""
    flags = {_flag(name): _flag(now) for name, now in RENAMED.items()}
    return "".join(f"; {word} is {flags[word]} now" for word in (word.split("=")[0] for word in argv) if word in flags)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _one_line(box: str) -> str:
    """The text of tyro's error box, without its title, its frame and its advice to read the help."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if line)
    return re.sub(r"Error parsing \w+: ", "", text.split(" For full helptext")[0])
