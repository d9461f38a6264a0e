"""What files hold, looked up by their sizes and times, so that a start reads only those that have changed."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from reformer.data.sources import Source

NAME = "contents.sqlite"

SETTLED = 2_000_000_000
"""Nanoseconds after its last change from which on a file's time tells a further change for sure."""

_COLUMNS = "path, kind, size, changed, read, digest, document, binary"


class Content(NamedTuple):
    """What a source holds."""

    digest: bytes
    """A hash of all."""
    document: int
    """The hash by which it is held out, if it is one document."""
    binary: bool
    """Whether there is a NUL byte in its first megabyte."""


def contents_of(sources: Sequence[Source], cache: Path) -> list[Content]:
    """The content of each source, from the index in `cache` where the file is as it was, else read."""
    try:
        with closing(sqlite3.connect(cache / NAME, timeout=60)) as index, index:
            index.execute(f"CREATE TABLE IF NOT EXISTS contents ({_COLUMNS}, PRIMARY KEY (path, kind))")
            return [_look_up(index, source) for source in sources]
    except sqlite3.DatabaseError as error:  # the index saves time, and holds nothing that cannot be read again
        if not isinstance(error, sqlite3.OperationalError):  # damaged, rather than on a disk that it cannot be used on
            (cache / NAME).unlink(missing_ok=True)
        return [Content(*source.read()) for source in sources]


def _look_up(index: sqlite3.Connection, source: Source) -> Content:
    if source.kind == "dataset":
        return Content(*source.read())
    key = str(source.path.resolve()), f"{source.kind} {source.compressed} {source.skip_binary}"
    entry = index.execute("SELECT * FROM contents WHERE path = ? AND kind = ?", key).fetchone()
    if entry is not None:
        *_, size, changed, read, digest, document, binary = entry
        if (size, changed) == (source.size, source.changed_ns) and read - changed > SETTLED:
            return Content(digest, int.from_bytes(document, "big"), bool(binary))
    started = time.time_ns()
    content = Content(*source.read())
    row = *key, source.size, source.changed_ns, started, content.digest, content.document.to_bytes(8, "big")
    index.execute(
        f"INSERT OR REPLACE INTO contents ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, content.binary)
    )
    return content
