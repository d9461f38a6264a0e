"""Text out of sources, a piece at a time, so that no file is ever whole in memory."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import IO, Any, AnyStr, Protocol

from reformer.data.sources import Source, readable
from reformer.errors import InputError

PIECE = 1 << 20
"""Most bytes of a piece of a document."""

ROW = 1 << 30
"""Most bytes of a line of a file of rows, or of a list of them; it is held as a whole, a few times over."""

PACKED = 1 << 30
"""Bytes up to which an archive may unpack to anything."""

RATIO = 300
"""Beyond that, most times of its size; text seldom unpacks to more than twenty, and gzip can claim a thousand."""


class Readable(Protocol):
    """A file of bytes, or what stands for one."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most so many; none at the end."""


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of a document."""

    text: bytes
    first: bool
    """Begins its document."""
    digest: int | None
    """Hash of the whole document, in its last piece."""


def document_hash(text: bytes) -> int:
    """A hash of 64 bits, by which documents are held out."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def read_pieces(source: Source, field: str) -> Iterator[Piece]:
    """The documents of a source that are not empty, in pieces that end behind a line where there is one.

    Raises InputError, with the line, for what is no text: broken archives, invalid JSON, a field that is missing or no
    text, and for a file that changes while it is read.
    """
    if source.kind == "text":
        with opened(source) as file:
            yield from text_pieces(file, source.skip_binary)
    else:
        for text in _texts(source, field):
            yield from text_pieces(io.BytesIO(text))
    source.check_unchanged()


def _texts(source: Source, field: str) -> Iterator[bytes]:
    if source.kind == "parquet":
        return (text for _, text in parquet_texts(source, field))
    if source.kind == "dataset":
        return _dataset(source, field)
    rows = {"jsonl": json_rows, "json": json_list, "separated": separated_rows}[source.kind]
    return _fields(rows(source), field)


class opened:  # noqa: N801 - a context manager
    """The bytes of a file, unpacked; what is wrong with them becomes an InputError."""

    def __init__(self, source: Source) -> None:
        self.source, self.readable = source, readable(source.path, source.name)

    def __enter__(self) -> Any:
        with self.readable:
            self.file: Any = (
                io.BufferedReader(_Unpacked(self.source), PIECE)
                if self.source.compressed
                else self.source.path.open("rb")
            )
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, EOFError | gzip.BadGzipFile | zlib.error):
            raise InputError(f"{self.source.name} is no whole gzip file ({error}); pack it again") from None
        self.readable.__exit__(kind, error, trace)


class _Unpacked(io.RawIOBase):
    """The bytes of an archive. Raises InputError for one that is made to fill memory or disk."""

    def __init__(self, source: Source) -> None:
        self.source, self.file, self.count = source, gzip.GzipFile(source.path), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.file.read1(len(buffer))
        buffer[: len(block)] = block
        self.count += len(block)
        if self.count > max(PACKED, RATIO * self.source.size):
            raise InputError(
                f"{self.source.name} unpacks to more than {self.count:,} bytes, {RATIO} times its size; if that is "
                "meant, unpack it first"
            )
        return len(block)

    def close(self) -> None:
        self.file.close()
        super().close()


def _lines(file: IO[AnyStr], name: str) -> Iterator[tuple[int, AnyStr]]:
    """The lines of a file, numbered from 1. Raises InputError for one that is too long to hold."""
    number = 0
    while line := file.readline(ROW + 1):
        number += 1
        if len(line) > ROW:
            raise InputError(f"{name}, line {number}: it is over {ROW:,} bytes; split it, or give long texts as files")
        yield number, line


def _parsed(text: bytes, where: str, advice: str) -> Any:
    """What JSON says. Raises InputError for what is none."""
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise InputError(f"{where}: it is not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and deep nesting too
        raise InputError(f"{where}: no JSON ({error}); {advice}") from None


def text_pieces(file: Readable, skip_binary: bool = False) -> Iterator[Piece]:
    """A file as one document."""
    digest, carried, first = blake2b(digest_size=8), b"", True
    while block := file.read(PIECE):
        if skip_binary and b"\0" in block:
            return
        skip_binary = False
        digest.update(block)
        if carried and len(carried) + len(block) > PIECE:
            cut = carried.rfind(b"\n") + 1 or carried.rfind(b" ") + 1 or _character_end(carried)
            yield Piece(carried[:cut], first, None)
            carried, first = carried[cut:], False
        carried += block
    if carried:
        yield Piece(carried, first, int.from_bytes(digest.digest(), "big"))


def _character_end(text: bytes) -> int:
    """Where the last whole UTF-8 character ends."""
    for back in range(1, min(4, len(text)) + 1):
        if text[-back] >= 0xC0:
            return len(text) - back
        if text[-back] < 0x80:
            break
    return len(text)


def _fields(rows: Iterator[tuple[str, dict[str, Any]]], field: str) -> Iterator[bytes]:
    for where, row in rows:
        yield as_bytes(take(row, field, where), field, where)


def json_rows(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file that has one a line, and where each stands. Raises InputError for what is none."""
    with opened(source) as file:
        for number, line in _lines(file, source.name):
            if not line.strip():
                continue
            where = f"{source.name}, line {number}"
            yield where, parsed_row(line, where)


def parsed_row(line: bytes, where: str) -> dict[str, Any]:
    """The object of a line. Raises InputError for what is none."""
    row = _parsed(line, where, "mend or remove the line")
    if not isinstance(row, dict):
        raise InputError(f"{where}: a {type(row).__name__}, not an object; each line is one object")
    return row


def json_list(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file that is one list of them, and where each stands. Raises InputError for what is none."""
    with opened(source) as file:
        text = file.read(ROW + 1)
    if len(text) > ROW:
        raise InputError(f"{source.name}: a list of over {ROW:,} bytes; write one object a line (.jsonl)")
    rows = _parsed(text, source.name, "one object a line is .jsonl")
    if not isinstance(rows, list):
        raise InputError(f"{source.name}: a {type(rows).__name__}, not a list of objects; --raw takes it as text")
    for number, row in enumerate(rows, 1):
        where = f"{source.name}, row {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: a {type(row).__name__}, not an object; a list has one object a row")
        yield where, row


def separated_rows(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file of separated values, by its first line's names, and where each stands."""
    separator = "\t" if ".tsv" in [suffix.lower() for suffix in source.path.suffixes] else ","
    csv.field_size_limit(ROW)  # long texts are what we are for
    with opened(source) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        lines = (line for _, line in _lines(text, source.name))
        reader = csv.DictReader(lines, delimiter=separator, strict=True)
        try:
            for row in reader:
                where = f"{source.name}, line {reader.line_num}"
                if None in row or None in row.values():
                    expected = len(reader.fieldnames or ())
                    raise InputError(f"{where}: it has not {expected} columns as the first line has; mend the line")
                yield where, dict(row)
        except UnicodeDecodeError:
            raise InputError(f"{source.name}: it is not UTF-8; save the file as UTF-8") from None
        except csv.Error as error:
            raise InputError(f"{source.name}, line {reader.line_num}: {error}; mend the line") from None


def take(row: dict[str, Any], field: str, where: str, flag: str = "--field") -> Any:
    """A field of a row; InputError where it is missing."""
    if field not in row:
        raise InputError(f"{where}: no field {field!r}; it has {_names(row)}: choose one with {flag}")
    return row[field]


def parquet_texts(source: Source, field: str, group: int = 0) -> Iterator[tuple[int, bytes]]:
    """The texts of a Parquet file from a row group on, each with the number of its group."""
    import pyarrow as pa
    from pyarrow import parquet

    with readable(source.path, source.name):
        try:
            file = parquet.ParquetFile(source.path)
        except (pa.ArrowException, OSError, ValueError) as error:
            if getattr(error, "strerror", None):
                raise  # the system's
            raise InputError(f"{source.name} is no Parquet file ({_line(error)}); write it again") from None
        with file:
            yield from _column(source, field, file, group)


def _column(source: Source, field: str, file: Any, group: int) -> Iterator[tuple[int, bytes]]:
    names = file.schema_arrow.names
    if field not in names:
        raise InputError(f"{source.name} has no column {field!r}; it has {_names(names)}: choose one with --field")
    number = sum(file.metadata.row_group(i).num_rows for i in range(group))
    try:
        for i in range(group, file.num_row_groups):
            for batch in file.iter_batches(batch_size=64, row_groups=[i], columns=[field]):
                for value in batch.column(0):
                    number += 1
                    yield i, as_bytes(value.as_py(), field, f"{source.name}, row {number}")
    except InputError:
        raise
    except Exception as error:  # damaged pages, texts that are not UTF-8, dates that Python has not
        raise InputError(f"{source.name} breaks off behind row {number} ({_line(error)}); write it again") from None


def _dataset(source: Source, field: str) -> Iterator[bytes]:
    from datasets import load_from_disk

    with _readable_table(source.name):
        rows: Any = load_from_disk(str(source.path))
        names = rows.column_names
    if field not in names:
        raise InputError(f"{source.name} has no column {field!r}; it has {_names(names)}: choose one with --field")
    for where, row in table_rows(source.name, rows.select_columns([field])):
        yield as_bytes(row[field], field, where)


def table_rows(name: str, table: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table of `datasets` and where each stands. Raises InputError for one that is damaged."""
    with _readable_table(name):
        table.data.table.validate(full=True)  # reading what points outside of its file would end the process
    rows = iter(table)
    for number in range(1, len(table) + 1):
        with _readable_table(name):
            row = next(rows)
        yield f"{name}, row {number}", row


@contextmanager
def _readable_table(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InputError(f"{name} cannot be read ({_line(error)}); write it again") from None


def as_bytes(value: object, field: str, where: str) -> bytes:
    """The text of a field. Raises InputError for what is none."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    raise InputError(f"{where}: field {field!r} is {type(value).__name__}, not text; choose another with --field")


def _names(names: Any) -> str:
    listed = ", ".join(map(repr, list(names)[:8]))
    return f"{listed} and {len(names) - 8} more" if len(names) > 8 else listed or "none"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
