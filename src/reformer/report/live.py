"""Pages as files, and the page of a run that goes on."""

import time
from contextlib import suppress
from pathlib import Path

from reformer.errors import InputError, not_written
from reformer.report.runs import REFRESH, report
from reformer.settings.run_file import RUN_FILE
from reformer.training.processes import is_main_process


class Page:
    """The page of a run that this process trains; what keeps it from being written is no reason for a run to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.next = folder, folder / "report.html", 0.0

    def now_and_then(self) -> None:
        """Write it, if the last one is some time ago, the longer the longer it took."""
        begun = time.monotonic()
        if begun > self.next:
            self.write()
            self.next = time.monotonic() + max(REFRESH / 2, 50 * (time.monotonic() - begun))

    def write(self) -> str | None:
        """Write it; what went wrong, if anything did."""
        if is_main_process() and (self.folder / RUN_FILE).exists():
            try:
                write_page(self.path, report([self.folder]))
            except Exception as error:  # the training is worth more than its page, whatever this is
                return " ".join(str(error).split())[:200] or type(error).__name__
        return None


def write_page(path: Path, html: str) -> None:
    """A page, whole or not at all. Raises as `not_written` says."""
    if not path.name or (path.exists() and not path.is_file()):
        raise InputError(f"--out {path} is no file; name one for the page")
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(html, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise not_written(error, f"{path} cannot be written ({error.strerror}); choose another --out") from None
