"""Rows of files: .jsonl, .csv, .tsv (also .gz), .parquet, folders of datasets."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reformer.data.reading import json_rows, opened
from reformer.data.sources import Source, find_sources, readable
from reformer.errors import InputError

Row = dict[str, Any]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_rows(paths: Sequence[str | Path]) -> Iterator[tuple[str, Row]]:
    """The rows of files and where each stands.

    Raises InputError, with the line, for what holds none.
    """
    for source in find_sources(paths):
        yield from _rows(source)
        source.check_unchanged()


def _rows(source: Source) -> Iterator[tuple[str, Row]]:
    if source.kind == "jsonl":
        return json_rows(source)
    if source.kind == "text":
        suffixes = [suffix.lower() for suffix in source.path.suffixes if suffix.lower() != ".gz"]
        separator = _SEPARATORS.get(suffixes[-1] if suffixes else "")
        if separator is None:
            raise InputError(f"{source.name} has no rows; give .jsonl, .csv, .tsv, .parquet or a folder of datasets")
        return _separated(source, separator)
    return _table(source)


def _separated(source: Source, separator: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(sys.maxsize)  # long texts are what we are for
    with opened(source) as file:
        reader = csv.DictReader(
            io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), delimiter=separator, strict=True
        )
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


def _table(source: Source) -> Iterator[tuple[str, Row]]:
    from datasets import Dataset, load_from_disk

    with readable(source.path, source.name):
        try:
            table: Any = (
                load_from_disk(str(source.path))
                if source.kind == "dataset"
                else Dataset.from_parquet(str(source.path), keep_in_memory=True)
            )
        except Exception as error:
            raise InputError(f"{source.name} cannot be read ({' '.join(str(error).split())}); write it again") from None
    for number, row in enumerate(table, 1):
        yield f"{source.name}, row {number}", row
