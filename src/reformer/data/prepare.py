"""A corpus tokenized once, into memory-mapped files that later runs on the same text find again."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from reformer.data.corpus import MANY, Document
from reformer.data.reading import Piece, read_pieces
from reformer.data.sources import Source, find_sources
from reformer.data.stream import MappedStream, TokenStream, join_documents
from reformer.data.tokens import ByteTokens, TokenArray, Tokens, load_tokens, train_bpe
from reformer.errors import InputError
from reformer.settings.data import BPE, DataSettings

LAYOUT = 1
"""Changes when prepared files are written otherwise."""

BPE_SAMPLE = 200 << 20
"""Bytes of text that a BPE is trained on, at most."""

BLOCK = 1 << 20
"""Bytes of text that become one row, about."""

_COLUMNS = {"tokens": "large_binary", "hashes": "binary", "error": "string"}  # lists are slow to write
_PARALLEL_FROM = 32 << 20  # bytes of text below which one process is as fast
_BATCH = 16  # rows of up to a megabyte that are written at a time

Say = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """Text as tokens: what to train on, what is held out."""

    train: TokenStream
    held_out: TokenStream
    """Perhaps empty."""
    tokens: Tokens
    fingerprint: str
    """Changes with the text and its tokens."""

    @classmethod
    def in_memory(
        cls, documents: Sequence[Document], held_out: Sequence[Document] = (), tokens: Tokens | None = None
    ) -> "Corpus":
        """A corpus of documents that are at hand."""
        tokens = tokens or ByteTokens()
        train = join_documents(documents, tokens)
        digest = blake2b(train.part(0, len(train)).tobytes(), digest_size=16).hexdigest()
        return cls(train, join_documents(held_out, tokens), tokens, digest)


def cache_folder() -> Path:
    """Where prepared text is kept: beside what `datasets` caches (HF_DATASETS_CACHE)."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "reformer"


def prepare(
    settings: DataSettings,
    length: int,
    *,
    sources: Sequence[Source] | None = None,
    cache: Path | None = None,
    say: Say = lambda _: None,
) -> Corpus:
    """Tokenize a corpus into rows of `length` tokens, or find it as an earlier call left it.

    It is the same as long as the content of the files, the tokenizer, the length and what is held out are. `sources`
    stand for `settings.files` if given. Raises InputError for text that cannot be read and for nothing to train on.
    """
    from datasets import disable_progress_bars

    if not os.isatty(2):
        disable_progress_bars()
    cache = cache or cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{cache} cannot be made ({error.strerror}); set HF_DATASETS_CACHE to another folder"
        ) from None
    with tempfile.TemporaryDirectory(dir=cache, prefix="preparing-") as scratch:
        train = list(sources) if sources is not None else find_sources(settings.files, Path(scratch))
        held_out = find_sources(settings.held_out_files, Path(scratch))
        contents = [[source.fingerprint() for source in part] for part in (train, held_out)]
        tokens = _tokens(settings, train, contents[0], cache)
        share = 0.0 if held_out else settings.held_out
        key = blake2b(
            repr((LAYOUT, tokens.identity, length, share, settings.field, contents)).encode(), digest_size=16
        ).hexdigest()
        folder = cache / key
        with FileLock(cache / f"{key}.lock"):  # of several processes one prepares
            if not (folder / "train.arrow").exists():
                work = Path(scratch, key)
                work.mkdir()
                rows = _tokenize(train, tokens, settings, Path(scratch, "train"))
                _pack(rows, tokens, length, share, work / "train.arrow", work / "held_out.arrow")
                if held_out:
                    rows = _tokenize(held_out, tokens, settings, Path(scratch, "held_out"))
                    _pack(rows, tokens, length, 0.0, work / "held_out.arrow", None)
                shutil.rmtree(folder, ignore_errors=True)
                work.rename(folder)
                say(f"tokenized {len(train):,} files; later runs on the same text find the tokens in {folder}")
    kept, held = (MappedStream(folder / name, length) for name in ("train.arrow", "held_out.arrow"))
    return Corpus(kept, held, tokens, key)


def _tokens(settings: DataSettings, sources: Sequence[Source], contents: Sequence[bytes], cache: Path) -> Tokens:
    """The tokens to use; a BPE that was trained on the same text is found again."""
    if not settings.tokenizer.startswith(BPE):
        return load_tokens(settings.tokenizer)
    key = blake2b(repr((LAYOUT, settings.tokenizer, settings.field, contents)).encode(), digest_size=16).hexdigest()
    folder = cache / f"bpe-{key}"
    with FileLock(cache / f"bpe-{key}.lock"), tempfile.TemporaryDirectory(dir=cache, prefix="preparing-") as scratch:
        if not (folder / "tokenizer.json").exists():
            work = Path(scratch, "bpe")
            train_bpe(_sample(sources, settings.field), int(settings.tokenizer.removeprefix(BPE))).save(work)
            shutil.rmtree(folder, ignore_errors=True)
            work.rename(folder)
    return load_tokens(str(folder))


def _sample(sources: Sequence[Source], field: str) -> Iterator[bytes]:
    size = 0
    for source in sources:
        for piece in read_pieces(source, field):
            yield piece.text
            size += len(piece.text)
            if size >= BPE_SAMPLE:
                return


def _tokenize(sources: Sequence[Source], tokens: Tokens, settings: DataSettings, scratch: Path) -> Any:
    """A dataset of rows of tokens, documents joined, and of the hashes of the documents that end in each."""
    from datasets import Dataset, Features, Value
    from datasets.exceptions import DatasetGenerationError

    processes = min(settings.processes or os.cpu_count() or 1, len(sources))
    if sum(source.size for source in sources) < _PARALLEL_FROM and settings.processes is None:
        processes = 1
    try:
        rows = Dataset.from_generator(
            _rows,
            features=Features({name: Value(kind) for name, kind in _COLUMNS.items()}),
            cache_dir=str(scratch),
            gen_kwargs={"sources": list(sources), "tokens": tokens, "field": settings.field},
            num_proc=processes if processes > 1 else None,
            fingerprint=scratch.name,
            writer_batch_size=_BATCH,
        )
    except (DatasetGenerationError, OSError) as error:
        raise InputError(
            f"tokens cannot be written to {scratch.parent.parent} ({error.__cause__ or error}); make room, or set "
            "HF_DATASETS_CACHE to another folder"
        ) from error
    if said := next((said for said in rows["error"] if said), None):
        raise InputError(said)
    return rows


def _arrays(rows: Any, tokens: Tokens) -> Iterator[tuple[TokenArray, NDArray[np.uint64]]]:
    """The tokens and the hashes of each row."""
    for row in rows:
        yield np.frombuffer(row["tokens"], _dtype(tokens)), np.frombuffer(row["hashes"], np.uint64)


def _dtype(tokens: Tokens) -> str:
    return "uint16" if tokens.vocabulary <= 1 << 16 else "uint32"


def _rows(sources: Sequence[Source], tokens: Tokens, field: str) -> Iterator[dict[str, Any]]:
    try:
        for source in sources:
            pieces: list[Piece] = []
            size = 0
            for piece in read_pieces(source, field):
                pieces.append(piece)
                size += len(piece.text)
                if size >= BLOCK:
                    yield _row(pieces, tokens)
                    pieces, size = [], 0
            if pieces:
                yield _row(pieces, tokens)
        yield {"tokens": b"", "hashes": b"", "error": ""}  # `datasets` takes no files without rows
    except InputError as error:  # as a row, since an exception loses its message between processes
        yield {"tokens": b"", "hashes": b"", "error": str(error)}


def _row(pieces: Sequence[Piece], tokens: Tokens) -> dict[str, Any]:
    parts: list[TokenArray] = []
    for piece, text in zip(pieces, tokens.encode([piece.text for piece in pieces]), strict=True):
        if piece.first:
            parts.append(np.array([tokens.end], dtype=text.dtype))
        parts.append(text)
    hashes = np.array([piece.digest for piece in pieces if piece.digest is not None], dtype=np.uint64)
    return {"tokens": np.concatenate(parts).tobytes(), "hashes": hashes.tobytes(), "error": ""}


def _pack(rows: Any, tokens: Tokens, length: int, share: float, train: Path, held_out: Path | None) -> None:
    """Write rows of `length` tokens; documents, or the ends of a few, go to `held_out`."""
    kept = _kept(rows, tokens, share)
    if not kept.any():
        raise InputError(f"held_out={share} leaves no text to train on; hold out less")
    files = [_RowFile(train, length, tokens), *([_RowFile(held_out, length, tokens)] if held_out else [])]
    document, seen = -1, 0  # documents begun; tokens of the last one
    for part, _ in _arrays(rows, tokens):
        starts = np.flatnonzero(part == tokens.end).tolist()
        for at, to in zip([0, *starts], [*starts, len(part)], strict=True):
            if to == at:
                continue
            if part[at] == tokens.end:
                document, seen = document + 1, 0
            left = int(kept[document]) - seen
            cut = min(max(left, 0), to - at)
            files[0].add(part[at : at + cut])
            if cut < to - at and files[1:]:
                if seen + cut and left >= 0:  # the end of a document is a document of its own there
                    files[1].add(np.array([tokens.end], dtype=part.dtype))
                files[1].add(part[at + cut : to])
            seen += to - at
    for file in files:
        file.close()


def _kept(rows: Any, tokens: Tokens, share: float) -> NDArray[np.int64]:
    """How many tokens of each document, its end token included, are to train on."""
    lengths: list[NDArray[np.int64]] = []
    hashes: list[NDArray[np.uint64]] = []
    for part, of_documents in _arrays(rows, tokens):
        starts = np.flatnonzero(part == tokens.end)
        first = starts[0] if len(starts) else len(part)
        if first:
            next(known for known in reversed(lengths) if len(known))[-1] += first
        lengths.append(np.diff(np.append(starts, len(part))).astype(np.int64))
        hashes.append(of_documents)
    whole = np.concatenate(lengths)
    if not len(whole):
        raise InputError("the files hold no text; give others")
    if not share:
        return whole
    held = np.concatenate(hashes) / 2.0**64 < share
    if len(whole) >= MANY and held.any() and not held.all():
        return np.where(held, 0, whole)
    return whole - ((whole - 1) * share).astype(np.int64)


class _RowFile:
    """An Arrow file of rows of `length` tokens."""

    def __init__(self, path: Path, length: int, tokens: Tokens) -> None:
        from datasets import Features, List, Value
        from datasets.arrow_writer import ArrowWriter

        dtype = _dtype(tokens)
        self.writer = ArrowWriter(features=Features({"tokens": List(Value(dtype))}), path=str(path))
        self.length, self.waiting, self.size = length, [np.zeros(0, dtype)], 0

    def add(self, part: NDArray[Any]) -> None:
        """Append tokens."""
        self.waiting.append(part)
        self.size += len(part)
        if self.size >= max(self.length, 1 << 20):
            self._write(self.size // self.length * self.length)

    def _write(self, count: int) -> None:
        import pyarrow as pa

        flat = np.concatenate(self.waiting)
        offsets = np.arange(0, count + self.length, self.length).clip(max=count).astype(np.int32)
        rows = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat[:count]))
        self.writer.write_table(pa.table({"tokens": rows}))
        self.waiting, self.size = [flat[count:]], len(flat) - count

    def close(self) -> None:
        """Write what is left, in a shorter row."""
        if self.size:
            self._write(self.size)
        self.writer.finalize()
