"""A corpus that is read as it comes, without being prepared: larger than a disk, or new each time.

Its shards are dealt to lanes, and each lane goes through its own ones again and again, each time in another order. It
cuts them into windows and takes these in blocks, each block in an order of its own: the bounded buffer that texts are
shuffled in. Which window is which depends on the seed alone; a process reads the lanes that its rows are of, and goes
on at the beginning of a block.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from reformer.data.pace import Pace
from reformer.data.reading import Piece, document_hash
from reformer.data.shards import Part, Place, Shard, read_from
from reformer.data.sources import Source
from reformer.data.stream import TokenStream
from reformer.data.tokenizer import Tokenizer
from reformer.errors import InputError
from reformer.settings.json_file import read_object
from reformer.settings.phases import Phase

LANES = 48
"""Most lanes. Where their number is a multiple of the rows of a micro-batch of all processes, nothing is read twice."""

UNEVEN = 1.2
"""How much more text than the mean a lane may have: rows come from lanes in turn, whatever they have."""

BATCH = 1 << 20
"""Bytes of text that are tokenized at a time, about."""

REMEMBERED = 64
"""Blocks whose beginnings a lane remembers: those that a checkpoint may still want."""


@dataclass(frozen=True)
class StreamedCorpus:
    """Text that is read as it comes: what to train on, and what is held out."""

    shards: Sequence[Shard]
    sizes: Sequence[int]
    """How much text each shard has, in bytes or in whatever tells them from each other."""
    held_out: TokenStream
    tokenizer: Tokenizer
    field: str
    share: float
    """Of rows that are held out, by the hash of their first piece; of files of text there is none among the shards."""
    buffer: int
    """Tokens that are shuffled at a time, over all lanes."""
    fingerprint: str


@dataclass
class _At:
    """Where a lane is: in which pass, at which of its shards, at which place in it, behind how many tokens there."""

    everything: bool = False
    """Whether it reads all shards, since its own have nothing."""
    turn: int = 0
    shard: int = 0
    place: Place | None = None
    used: int = 0


@dataclass
class Lane:
    """The windows of some shards, pass after pass, in blocks of `size` that are shuffled each by itself."""

    corpus: StreamedCorpus
    shards: Sequence[Shard]
    seed: tuple[int, int]
    length: int
    size: int
    begins: dict[int, _At] = field(default_factory=lambda: {0: _At()})
    """Where blocks begin, as far as it is known."""

    _block: int = -1
    _order: NDArray[np.int64] | None = None
    _windows: NDArray[Any] | None = None
    _tokens: "Iterator[tuple[NDArray[Any], _At]] | None" = None
    _rest: "tuple[NDArray[Any], _At] | None" = None

    def window(self, number: int) -> NDArray[Any]:
        """One of its windows [length]; those of a block, and then of the next, cost no reading twice."""
        block, index = divmod(number, self.size)
        if block != self._block:
            self._go_to(block)
        assert self._windows is not None
        assert self._order is not None
        return self._windows[self._order[index]]

    def _go_to(self, block: int) -> None:
        if self._tokens is None or block <= self._block:
            known = max(begin for begin in self.begins if begin <= block)
            self._tokens, self._rest, self._block = _tokens(self, self.begins[known]), None, known - 1
        while self._block < block:
            self._read_block()

    def _read_block(self) -> None:
        assert self._tokens is not None
        out = np.empty(self.size * self.length, np.uint32 if self.corpus.tokenizer.vocabulary > 1 << 16 else np.uint16)
        filled = 0
        while filled < len(out):
            tokens, at = self._rest or next(self._tokens)
            count = min(len(out) - filled, len(tokens))
            out[filled : filled + count] = tokens[:count]
            filled += count
            self._rest = (tokens[count:], replace(at, used=at.used + count)) if count < len(tokens) else None
        if self._rest is None:
            self._rest = next(self._tokens)
        self._block += 1
        self._order = np.random.default_rng((*self.seed, self._block)).permutation(self.size)
        self._windows = out.reshape(self.size, self.length)
        self.begins[self._block + 1] = self._rest[1]
        for old in [begin for begin in self.begins if 0 < begin < self._block - REMEMBERED]:
            del self.begins[old]


def _tokens(lane: Lane, at: _At) -> Iterator[tuple[NDArray[Any], _At]]:
    """The tokens of a lane from a place on without end, the end token in front of each document."""
    while True:
        shards = lane.corpus.shards if at.everything else lane.shards
        order = np.random.default_rng((*lane.seed, at.turn, 1)).permutation(len(shards))
        found = at.shard > 0 or at.place is not None
        for number in range(at.shard, len(order)):
            for tokens, place, used in _of_shard(lane.corpus, shards[order[number]], at):
                found = True
                yield tokens, _At(at.everything, at.turn, number, place, used)
            at = _At(at.everything, at.turn, number + 1)
        if not found and at.everything:
            raise InputError("the text to train on is empty, or all of it is held out; hold out less, or give more")
        at = _At(at.everything or not found, at.turn + 1)


def _of_shard(corpus: StreamedCorpus, shard: Shard, at: _At) -> Iterator[tuple[NDArray[Any], Place, int]]:
    """The tokens of a shard from a place on, piece by piece: where each is, and how many of its tokens are left out."""
    used = at.used
    for pieces in _batches(_kept(corpus, shard, at.place)):
        encoded = corpus.tokenizer.encode([piece.text for piece, _ in pieces])
        for (piece, place), text in zip(pieces, encoded, strict=True):
            tokens = np.concatenate([np.array([corpus.tokenizer.end], text.dtype), text]) if piece.first else text
            if len(tokens) > used:
                yield tokens[used:], place, used
            used = 0


def _kept(corpus: StreamedCorpus, shard: Shard, place: Place | None) -> Iterator[tuple[Piece, Place]]:
    """The pieces of a shard's documents that are not held out."""
    held, rows = False, not is_text(shard)
    for piece, where in read_from(shard, corpus.field, place, corpus.tokenizer.per_byte):
        if piece.first and rows:
            held = is_held_out(piece.text, corpus.share)
        if not held:
            yield piece, where


def is_text(shard: Shard) -> bool:
    """Whether a shard is one document, rather than rows of them."""
    return isinstance(shard, Part) or (isinstance(shard, Source) and shard.kind == "text")


def is_held_out(text: bytes, share: float) -> bool:
    """Whether a row is held out, by its first piece, or a file, by what it is called."""
    return document_hash(text) / 2**64 < share


def deal(sizes: Sequence[int], order: Sequence[int]) -> list[list[int]]:
    """Shards to as many lanes as have about as much text each: the largest first, each to the lane that has least."""
    largest_first = sorted(order, key=lambda shard: -sizes[shard])
    for count in range(min(LANES, len(sizes)), 0, -1):
        lanes: list[list[int]] = [[] for _ in range(count)]
        sums = [0] * count
        for shard in largest_first:
            least = sums.index(min(sums))
            lanes[least].append(shard)
            sums[least] += sizes[shard]
        if max(sums) * count <= UNEVEN * sum(sums):
            return lanes
    return [list(largest_first)]


def _batches(pieces: Iterator[tuple[Piece, Place]]) -> Iterator[list[tuple[Piece, Place]]]:
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0].text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class StreamedWindows(Dataset[dict[str, Tensor]]):
    """The windows of a whole run over a streamed corpus, which are asked for in their order.

    Row after row goes from lane to lane. A phase of shorter windows cuts those of the run's `length`.
    """

    def __init__(
        self,
        corpus: StreamedCorpus,
        phases: Sequence[Phase],
        rows: int,
        seed: int,
        past: Sequence[tuple[int, int]] = (),
        resume: Path | None = None,
    ) -> None:
        self.corpus, self.phases, self.pace = corpus, phases, Pace(rows, past)
        length = phases[-1].length
        for phase in phases:
            if length % phase.length:
                raise InputError(
                    f"length_schedule has windows of {phase.length} tokens, which are cut out of windows of "
                    f"length={length} where a text is streamed; give lengths that divide it"
                )
        dealt = deal(corpus.sizes, np.random.default_rng((seed, 2)).permutation(len(corpus.shards)).tolist())
        size = max(corpus.buffer // (len(dealt) * length), 1)
        self.lanes = [
            Lane(corpus, [corpus.shards[i] for i in shards], (seed, number), length, size)
            for number, shards in enumerate(dealt)
        ]
        if resume is not None:
            self._go_on(resume)

    def __len__(self) -> int:
        return self.pace.items * sum(phase.steps for phase in self.phases)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        lane, window, start, length = self._place(self.row(index))
        tokens = torch.from_numpy(self.lanes[lane].window(window)[start : start + length].astype(np.int64))
        return {"input_ids": tokens, "labels": tokens}

    def row(self, index: int) -> int:
        """The number among all rows of the run."""
        return self.pace.locate(index)[1]

    def _place(self, row: int) -> tuple[int, int, int, int]:
        """The lane of a row of the run, its window there, and which part of that: the first token, and how many."""
        lane = row % len(self.lanes)
        window, begun = 0, 0
        for phase in self.phases:
            first, last = self.pace.before(begun), self.pace.before(begun + phase.steps)
            parts = self.lanes[lane].length // phase.length
            if row < last or phase is self.phases[-1]:
                taken = self._of_lane(lane, row) - self._of_lane(lane, first)
                return lane, window + taken // parts, taken % parts * phase.length, phase.length
            window += -(-(self._of_lane(lane, last) - self._of_lane(lane, first)) // parts)
            begun += phase.steps
        raise AssertionError

    def _of_lane(self, lane: int, row: int) -> int:
        """Rows of a lane among those before a row."""
        return (row - lane + len(self.lanes) - 1) // len(self.lanes)

    def save(self, path: Path, step: int) -> None:
        """Where the blocks begin that the lanes are in behind a step, as far as this process knows."""
        before, places = self.pace.before(step), {}
        for number, lane in enumerate(self.lanes):
            row = before + (number - before) % len(self.lanes)
            block = self._place(row)[1] // lane.size
            if block in lane.begins:
                places[number] = {"block": block, **vars(lane.begins[block])}
        path.write_text(json.dumps(places), encoding="utf-8")

    def _go_on(self, checkpoint: Path) -> None:
        for path in sorted(checkpoint.glob(f"{PLACES}*.json")):
            try:
                for number, values in read_object(path).items():
                    block = int(values.pop("block"))
                    self.lanes[int(number)].begins[block] = _At(**values)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                raise InputError(f"{path} does not say where its shards are read; give an earlier checkpoint") from None


PLACES = "places_"
"""How files of a checkpoint begin that say where its shards are read, one of each process."""
