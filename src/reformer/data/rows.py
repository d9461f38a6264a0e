"""Rows of files: .jsonl, .json, .csv, .tsv (also .gz), .parquet, folders of datasets."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reformer.data.reading import json_list, json_rows, separated_rows, table_rows
from reformer.data.sources import Source, find_sources, readable
from reformer.errors import InputError

Row = dict[str, Any]


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
    if source.kind == "json":
        return json_list(source)
    if source.kind == "separated":
        return separated_rows(source)
    if source.kind == "text":
        raise InputError(f"{source.name} has no rows; give .jsonl, .json, .csv, .tsv, .parquet or a folder of datasets")
    return _table(source)


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
    yield from table_rows(source.name, table)
