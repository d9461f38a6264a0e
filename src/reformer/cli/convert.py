"""`reformer convert`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reformer.cli.parse import parse
from reformer.errors import InputError
from reformer.ops.checks import check_integer


@dataclass
class Convert:
    """Turn a Reformer of transformers into a model of this library, or back.

    The folder tells which way. Weights and function stay; the tokenizer goes along.
    """

    source: tyro.conf.Positional[Path]
    """Folder of the model."""
    target: tyro.conf.Positional[Path]
    """Folder to write."""
    length: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None
    """Length from which transformers would work out the number of buckets; the longest unless given."""


def run(argv: Sequence[str]) -> None:
    """Parse, convert, say so."""
    command = parse(Convert, argv, "convert")
    if command.length is not None:
        check_integer("length", command.length, 1)
    if not command.target.resolve().parent.is_dir():
        raise InputError(f"{command.target}: its parent does not exist; make it first")

    from reformer.cli.quiet import quiet_libraries
    from reformer.interop.transformers.folder import convert_folder

    quiet_libraries()
    print(convert_folder(command.source, command.target, command.length))
