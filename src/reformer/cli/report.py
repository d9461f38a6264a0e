"""`reformer report`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reformer.cli.parse import parse
from reformer.errors import InputError


@dataclass
class Report:
    """Write a page about training runs: curves, loss by position, settings, plan, samples; several side by side.

    Prints the page's path. A run that goes on has one that looks again every half minute.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="HTML")] = None
    """Where the page goes; unless given, report.html in the folder of the (first) run."""


def run(argv: Sequence[str]) -> None:
    """Parse, write, print the path."""
    command = parse(Report, argv, "report")
    if not command.runs:
        raise InputError("a run is missing; name the folder that --out of train named")

    from reformer.cli.quiet import quiet_libraries
    from reformer.report.live import write_page
    from reformer.report.runs import REPORT, report

    quiet_libraries()
    path = command.out or command.runs[0] / REPORT
    write_page(path, report(command.runs))
    print(path)
