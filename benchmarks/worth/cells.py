"""The command line of a claim: each choice of its options is a cell, a process of its own and a row of JSON."""

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resumable import Row, fill


def run_cells(
    about: str | None,
    out: Path,
    options: Mapping[str, Sequence[Any]],
    run: Callable[..., Row],
    small: Callable[[], None] | None,
    environment: Mapping[str, str] = {},
    **settings: Any,
) -> None:
    """Run `run(*cell, **settings)` for the cells that `out` has no row of.

    `options` are what a row is told by, each with its values unless flags choose others; `settings` are one for all.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, values in options.items():
        choices = values if isinstance(values[0], str) else None
        parser.add_argument(f"--{name}", nargs="+", type=type(values[0]), default=values, choices=choices)
    for name, value in settings.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--small", action="store_true", help="the direction of the claim, in seconds" if small else argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    cells = list(itertools.product(*(getattr(arguments, name) for name in options)))
    chosen = {name: getattr(arguments, name) for name in settings}
    if arguments.small and small:
        small()
    elif arguments.one:
        print(json.dumps(run(*cells[0], **chosen)), flush=True)
    else:
        common = ["--one", *_words({name.replace("_", "-"): value for name, value in chosen.items()})]
        runs = {cell: [*common, *_words(dict(zip(options, cell, strict=True)))] for cell in cells}
        for row in fill(
            out, lambda row: tuple(row[name] for name in options), runs, arguments.processes, **environment
        ):
            print(*(row[name] for name in options), f"{row['cpu seconds']:.0f} s", flush=True)


def _words(values: Mapping[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]
