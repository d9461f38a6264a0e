"""What `--stream-data` reads: shards as they lie, and before the first step no more of them than is held out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from reformer.data.corpus import MANY
from reformer.data.prepare import Corpus, prepare
from reformer.data.shards import HubShard, Part, Shard, hub_shards, read_from
from reformer.data.sources import STANDARD_INPUT, Source, find_sources
from reformer.data.stream import ArrayStream, TokenStream
from reformer.data.streaming import StreamedCorpus, is_held_out, is_text
from reformer.data.task import Say
from reformer.data.tokenizer import Tokenizer, load_tokenizer
from reformer.errors import InputError
from reformer.settings.data import BPE, HUB, DataSettings

HELD_OUT = 1 << 20
"""Most tokens that are held out to be predicted."""

LOOKED_THROUGH = 64 << 20
"""Most bytes of rows that are read to find some that are held out."""

UNPACKED = 20
"""A text that is compressed is taken to be so many times as large as its file."""


def open_stream(
    settings: DataSettings, buffer: int, say: Say, sources: Sequence[Source] | None = None
) -> Corpus | StreamedCorpus:
    """The text of settings, to be read as it comes; one that fits into the buffer is prepared as any other.

    Raises InputError for what cannot be streamed, and as `prepare` does.
    """
    if settings.tokenizer.startswith(BPE):
        raise InputError(
            f"stream_data reads text once, and tokenizer={settings.tokenizer!r} is trained on it first; give the "
            "folder of a tokenizer"
        )
    if STANDARD_INPUT in settings.files:
        raise InputError("stream_data goes on at its place in a text, and - is standard input; write it to a file")
    shards: Sequence[Shard] = sources or [shard for given in settings.files for shard in _shards(given, settings.raw)]
    if not any(isinstance(shard, HubShard) for shard in shards) and sum(map(_size, shards)) <= buffer:
        say(f"the text fits into the {buffer:,} tokens that are shuffled at a time: stream_data changes nothing")
        return prepare(settings, sources=sources, say=say)
    tokenizer = load_tokenizer(settings.tokenizer)
    share = 0.0 if settings.held_out_files else settings.held_out
    facts = [(shard.path.name, shard.size) if isinstance(shard, Source) else shard for shard in shards]
    digest = blake2b(repr((tokenizer.identity, settings.field, facts)).encode(), digest_size=16).hexdigest()
    held_out: TokenStream
    if settings.held_out_files:
        others = replace(settings, files=settings.held_out_files, held_out_files=(), held_out=0.0)
        held_out = prepare(others, say=say).train
    else:
        shards, held = _split(shards, share)
        held_out = _tokens(held, shards, settings.field, tokenizer, share)
        if share and not len(held_out):
            say("nothing was found to hold out, so that nothing is measured; give --held-out-files")
    say(f"{len(shards):,} shards, read as they come; {len(held_out):,} tokens held out")
    sizes = [_size(shard) for shard in shards]
    return StreamedCorpus(shards, sizes, held_out, tokenizer, settings.field, share, buffer, digest)


def _shards(given: str, raw: bool) -> Sequence[Shard]:
    return hub_shards(given) if given.startswith(HUB) else find_sources([given], raw=raw)


def _size(shard: Shard) -> int:
    """Bytes of text, about; those of a dataset of the Hub are not known, and taken to be equal."""
    if isinstance(shard, HubShard):
        return 1 << 30
    if isinstance(shard, Part):
        return shard.end - shard.start
    return shard.size * (UNPACKED if shard.compressed or shard.kind in ("parquet", "dataset") else 1)


def _split(shards: Sequence[Shard], share: float) -> tuple[list[Shard], list[Shard]]:
    """Shards to train on, and what is held out of files of text: whole ones by their names, of few the last parts."""
    texts = [shard for shard in shards if isinstance(shard, Source) and is_text(shard)]
    held: list[Shard] = [text for text in texts if is_held_out(f"{text.path.name} {text.size}".encode(), share)]
    if len(texts) >= MANY and 0 < len(held) < len(texts):
        return [shard for shard in shards if shard not in held], held
    kept: list[Shard] = []
    held = []
    for shard in shards:
        cut = isinstance(shard, Source) and is_text(shard) and not shard.compressed
        if isinstance(shard, Source) and cut and (last := int(shard.size * share)):
            kept.append(Part(shard, 0, shard.size - last))
            held.append(Part(shard, shard.size - last, shard.size))
        else:
            kept.append(shard)
    return kept, held


def _tokens(
    texts: Sequence[Shard], shards: Sequence[Shard], field: str, tokenizer: Tokenizer, share: float
) -> ArrayStream:
    """Those of held-out texts, of each as many; or of rows, the first that are found."""
    parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for text in texts:
        parts += _first(_texts(text, field, tokenizer), tokenizer, max(HELD_OUT // len(texts), 1))
    if not texts and share:
        parts += _first(_held_rows(shards, field, tokenizer, share), tokenizer, HELD_OUT)
    return ArrayStream(np.concatenate(parts))


def _texts(shard: Shard, field: str, tokenizer: Tokenizer) -> Iterator[tuple[bool, bytes]]:
    """The pieces of a shard, and whether each begins a document."""
    return ((piece.first, piece.text) for piece, _ in read_from(shard, field, None, tokenizer.per_byte))


def _held_rows(shards: Sequence[Shard], field: str, tokenizer: Tokenizer, share: float) -> Iterator[tuple[bool, bytes]]:
    read, held = 0, False
    for shard in shards:
        if is_text(shard):
            continue
        for first, text in _texts(shard, field, tokenizer):
            held = is_held_out(text, share) if first else held
            read += len(text)
            if held:
                yield first, text
            if read >= LOOKED_THROUGH:
                return


def _first(pieces: Iterator[tuple[bool, bytes]], tokenizer: Tokenizer, most: int) -> list[NDArray[np.int64]]:
    """The first tokens of pieces of documents, the end token in front of each document."""
    parts: list[NDArray[np.int64]] = []
    left = most
    for first, text in pieces:
        tokens = tokenizer.encode([text])[0].astype(np.int64)
        if first:
            tokens = np.concatenate([np.array([tokenizer.end]), tokens])
        parts.append(tokens[:left])
        left -= len(parts[-1])
        if not left:
            break
    return parts
