"""`reformer report`."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reformer.cli.parse import parse
from reformer.errors import InputError, RunError, not_written
from reformer.settings.run_file import RUN_FILE
from reformer.training.processes import is_main_process


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
    from reformer.report.runs import REPORT, report

    quiet_libraries()
    path = command.out or command.runs[0] / REPORT
    write_page(path, report(command.runs))
    print(path)


class Page:
    """The page of a run that this process trains."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.last = folder, folder / "report.html", 0.0

    def now_and_then(self) -> None:
        """Write it, if it is older than half of what a reader waits before looking again."""
        from reformer.report.runs import REFRESH

        if time.monotonic() - self.last > REFRESH / 2:
            self.last = time.monotonic()
            self.at_the_end()

    def at_the_end(self) -> Path:
        """Write it; what keeps it from being written is no reason for a run to fail."""
        from reformer.report.runs import report

        if is_main_process() and (self.folder / RUN_FILE).exists():
            with suppress(InputError, RunError, OSError):
                write_page(self.path, report([self.folder]))
        return self.path


def write_page(path: Path, html: str) -> None:
    """A page, whole or not at all. Raises as `not_written` says."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(html, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise not_written(error, f"{path} cannot be written ({error.strerror}); choose another --out") from None
