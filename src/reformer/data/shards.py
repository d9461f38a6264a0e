"""Text out of shards that are read as they come, and places in them to go on from.

A place is (unit, pieces): a unit is where a reader can begin without what is in front of it (a byte, a line, a row
group), and pieces are those to pass over behind it. Of what has no such units, as archives and lists, a reader begins
at the shard's own start.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from reformer.data.reading import (
    PIECE,
    ROW,
    Piece,
    Readable,
    as_bytes,
    opened,
    parquet_texts,
    parsed_row,
    read_pieces,
    take,
    text_pieces,
)
from reformer.data.sources import Source
from reformer.errors import InputError, RunError
from reformer.settings.data import HUB

Place = list[Any]
"""A unit and a number of pieces, in JSON's own kinds."""

Units = Iterator[tuple[Any, Iterator[Piece]]]


@dataclass(frozen=True)
class HubShard:
    """One shard of a streaming dataset of `datasets`."""

    given: str
    number: int
    of: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.given} (shard {self.number + 1} of {self.of})"


@dataclass(frozen=True)
class Part:
    """Some consecutive bytes of a file of text, as a document of its own."""

    source: Source
    start: int
    end: int

    @property
    def name(self) -> str:
        """For messages."""
        return self.source.name


Shard = Source | Part | HubShard


def hub_shards(given: str) -> list[HubShard]:
    """The shards of a streaming dataset. Raises InputError where there is none."""
    count = _stream(given).num_shards
    return [HubShard(given, number, count) for number in range(count)]


def read_from(shard: Shard, field: str, place: Place | None, per_byte: bool) -> Iterator[tuple[Piece, Place]]:
    """The pieces of a shard from a place on, each with its own place; `per_byte`: a token is a byte.

    Raises InputError for what is no text, as `read_pieces` does.
    """
    begin, passed = place or (None, 0)
    for unit, pieces in _units(shard, field, begin, per_byte):
        for number, piece in enumerate(pieces):
            if unit != begin or number >= passed:
                yield piece, [unit, number]
    if not isinstance(shard, HubShard):
        (shard.source if isinstance(shard, Part) else shard).check_unchanged()


def _units(shard: Shard, field: str, begin: Any, per_byte: bool) -> Units:
    if isinstance(shard, HubShard):
        return _rows_of_hub(shard, field, begin)
    part = shard if isinstance(shard, Part) else Part(shard, 0, shard.size)
    if isinstance(shard, Part) and not per_byte:
        return iter([(None, _pieces_of(shard))])
    if part.source.kind == "text" and per_byte and not part.source.compressed:
        return _blocks(part, begin or part.start)
    assert isinstance(shard, Source)
    if shard.kind == "jsonl" and not shard.compressed:
        return _lines(shard, field, begin or 0)
    if shard.kind == "parquet":
        return _row_groups(shard, field, begin or 0)
    return iter([(None, read_pieces(shard, field))])


def _blocks(part: Part, offset: int) -> Units:
    """Of a file of bytes, from a byte on."""
    with opened(part.source) as file:
        file.seek(offset)
        while block := file.read(min(PIECE, part.end - offset)):
            if not offset and part.source.skip_binary and b"\0" in block:
                return
            yield offset, iter([Piece(block, offset == part.start, None)])
            offset += len(block)


def _pieces_of(part: Part) -> Iterator[Piece]:
    with opened(part.source) as file:
        file.seek(part.start)
        yield from text_pieces(_Bounded(file, part.end - part.start), part.source.skip_binary)


class _Bounded:
    """The next bytes of a file, and no more."""

    def __init__(self, file: Readable, left: int) -> None:
        self.file, self.left = file, left

    def read(self, size: int, /) -> bytes:
        block = self.file.read(min(size, self.left))
        self.left -= len(block)
        return block


def _lines(shard: Source, field: str, offset: int) -> Units:
    """Of a file of objects, from the line that begins at a byte."""
    with opened(shard) as file:
        file.seek(offset)
        while line := file.readline(ROW + 1):
            where = f"{shard.name}, the line at byte {offset:,}"
            if len(line) > ROW:
                raise InputError(f"{where}: it is over {ROW:,} bytes; split it, or give long texts as files")
            if line.strip():
                text = as_bytes(take(parsed_row(line, where), field, where), field, where)
                yield offset, text_pieces(io.BytesIO(text))
            offset += len(line)


def _row_groups(shard: Source, field: str, group: int) -> Units:
    for number, texts in groupby(parquet_texts(shard, field, group), itemgetter(0)):
        yield number, chain.from_iterable(text_pieces(io.BytesIO(text)) for _, text in texts)


def _rows_of_hub(shard: HubShard, field: str, state: Any) -> Units:
    rows = _stream(shard.given).shard(num_shards=shard.of, index=shard.number)
    if state is not None:
        rows.load_state_dict(json.loads(state))
    iterator = iter(rows)
    while True:
        before = json.dumps(rows.state_dict()) if state is None else state
        try:
            row = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise RunError(
                f"{shard.name} cannot be read any further: {' '.join(str(error).split())[:300]}; --resume auto goes on"
            ) from error
        text = as_bytes(take(row, field, shard.name), field, shard.name)
        yield before, text_pieces(io.BytesIO(text))
        state = None


@lru_cache(maxsize=16)
def _stream(given: str) -> Any:
    from datasets import IterableDataset, load_dataset

    name, _, split = given.removeprefix(HUB).partition(":")
    path, _, config = name.partition(",")
    try:
        found = load_dataset(path, config or None, split=split or "train", streaming=True)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{given} is no dataset that can be streamed: {reason[:300]}") from None
    assert isinstance(found, IterableDataset)
    return found
