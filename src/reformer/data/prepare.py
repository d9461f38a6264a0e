"""A corpus as tokens, prepared once for every length: later runs on the same text find it again.

Plain files that are trained on as bytes are read where they lie. Anything else is tokenized into one flat file of the
smallest type that fits, with the places of documents beside it.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from reformer.data.byte_tokens import FIRST_BYTE
from reformer.data.contents import Content, contents_of
from reformer.data.corpus import MANY, Document
from reformer.data.reading import Piece, read_pieces
from reformer.data.sources import Source, find_sources
from reformer.data.stream import Documents, FlatFile, PlainFiles, SpanStream, TokenStream, join_documents
from reformer.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer, train_bpe
from reformer.errors import InputError, not_written
from reformer.settings.data import BPE, DataSettings

LAYOUT = 2
"""Changes when prepared files are written otherwise."""

BPE_SAMPLE = 200 << 20
"""Bytes of text that a BPE is trained on, at most."""

PROBE = 1 << 16
"""Bytes that there is to be room for."""

BATCH = 4 << 20
"""Bytes of text that are tokenized at a time, about; tokenizers have threads of their own."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """Text as tokens: what to train on, what is held out."""

    train: TokenStream
    held_out: TokenStream
    """Perhaps empty."""
    tokenizer: Tokenizer
    fingerprint: str
    """Changes with the text and its tokens."""

    @classmethod
    def in_memory(
        cls, documents: Sequence[Document], held_out: Sequence[Document] = (), tokenizer: Tokenizer | None = None
    ) -> "Corpus":
        """A corpus of documents that are at hand."""
        tokenizer = tokenizer or ByteTokenizer()
        train = join_documents(documents, tokenizer)
        digest = blake2b(train.part(0, len(train)).tobytes(), digest_size=16).hexdigest()
        return cls(train, join_documents(held_out, tokenizer), tokenizer, digest)


@dataclass(frozen=True)
class _Text:
    """The documents of some sources, as tokens."""

    documents: Documents
    sizes: NDArray[np.int64]
    """Tokens of each document."""
    hashes: NDArray[np.uint64]
    """By which documents are held out."""


def cache_folder() -> Path:
    """Where prepared text is kept: beside what `datasets` caches (HF_DATASETS_CACHE)."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "reformer"


def prepare(
    settings: DataSettings,
    *,
    sources: Sequence[Source] | None = None,
    cache: Path | None = None,
    say: Say = lambda _: None,
) -> Corpus:
    """The tokens of a corpus, made now or found as an earlier call left them.

    They are the same as long as the content of the files, the tokenizer and what is held out are. `sources` stand for
    `settings.files` if given. Raises InputError for text that cannot be read and for nothing to train on.
    """
    cache = _place(cache or cache_folder(), say)
    with tempfile.TemporaryDirectory(dir=cache, prefix="piped-") as piped:
        train = list(sources) if sources is not None else find_sources(settings.files, Path(piped), settings.raw)
        held_out = find_sources(settings.held_out_files, Path(piped), settings.raw)
        with FileLock(cache / "contents.lock"):  # of several processes one reads
            all_contents = contents_of([*train, *held_out], cache)
        contents = all_contents[: len(train)], all_contents[len(train) :]
        tokenizer = _tokens(settings, train, contents[0], cache)
        preparing = _Preparing(tokenizer, settings.field, cache, Path(piped), say)
        texts = [preparing.text(*part) for part in zip((train, held_out), contents, strict=True) if part[0]]
    share = 0.0 if held_out else settings.held_out
    digests = [[content.digest for content in part] for part in contents]
    key = _key(tokenizer.identity, share, settings.field, digests)
    if held_out:
        return Corpus(_whole(texts[0], tokenizer), _whole(texts[1], tokenizer), tokenizer, key)
    return Corpus(*_split(texts[0], share, tokenizer), tokenizer, key)


def _place(cache: Path, say: Say) -> Path:
    """The folder to keep things in, or one of this process where that one is full or cannot be written to."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, prefix="preparing-") as probe:
            probe.write(bytes(PROBE))
            probe.flush()
    except OSError as error:
        say(
            f"nothing can be kept in {cache} ({error.strerror}): this run prepares its text for itself; make room "
            "there, or set HF_DATASETS_CACHE to another folder"
        )
        _own.append(tempfile.TemporaryDirectory(prefix="reformer-"))
        return Path(_own[-1].name)
    return cache


_own: list["tempfile.TemporaryDirectory[str]"] = []  # removed when the process ends


def _key(*parts: object) -> str:
    return blake2b(repr((LAYOUT, *parts)).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Preparing:
    """How text is prepared, and where it is kept."""

    tokenizer: Tokenizer
    field: str
    cache: Path
    piped: Path
    """Where standard input lies for a while."""
    say: Say

    def text(self, sources: Sequence[Source], contents: Sequence[Content]) -> _Text:
        """The documents of sources; those of plain files that are read as bytes stay where they are."""
        kept = [
            (source, content)
            for source, content in zip(sources, contents, strict=True)
            if not (source.skip_binary and self._lies_plain(source) and content.binary)
        ]
        if len(kept) < len(sources):
            self.say(
                f"left out {len(sources) - len(kept):,} files below folders that are no text (they have NUL bytes)"
            )
        if self.tokenizer.per_byte and all(self._lies_plain(source) for source, _ in kept):
            text = _Text(
                PlainFiles([source for source, _ in kept]),
                np.array([source.size for source, _ in kept], np.int64),
                np.array([content.document for _, content in kept], np.uint64),
            )
        else:
            text = self._tokenized([source for source, _ in kept], [content.digest for _, content in kept])
        if not len(text.sizes):
            raise InputError("the files hold no text; give others")
        return text

    def _lies_plain(self, source: Source) -> bool:
        """Whether a file is a document as it is, and stays."""
        return source.kind == "text" and not source.compressed and source.path.parent != self.piped

    def _tokenized(self, sources: Sequence[Source], digests: Sequence[bytes]) -> _Text:
        key = _key(self.tokenizer.identity, self.field, digests)
        folder = self.cache / key
        with FileLock(self.cache / f"{key}.lock"):  # of several processes one prepares
            if _places(folder, self.tokenizer) is None:
                try:
                    with tempfile.TemporaryDirectory(dir=self.cache, prefix="preparing-") as scratch:
                        work = Path(scratch, key)
                        work.mkdir()
                        _write(sources, self.tokenizer, self.field, work)
                        shutil.rmtree(folder, ignore_errors=True)
                        work.rename(folder)
                except OSError as error:
                    raise not_written(
                        error,
                        f"tokens cannot be written to {self.cache} ({error}); make room, or set HF_DATASETS_CACHE to "
                        "another folder",
                    ) from error
                self.say(f"tokenized {len(sources):,} files; later runs on the same text find the tokens in {folder}")
            places = _places(folder, self.tokenizer)
        if places is None:
            raise InputError(f"tokens that were just written to {folder} cannot be read again; check that disk")
        sizes, hashes = places
        dtype, shift = _type(self.tokenizer)
        first = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        return _Text(FlatFile(folder / "tokens.bin", dtype, first, shift, self.tokenizer.vocabulary), sizes, hashes)


def _places(folder: Path, tokenizer: Tokenizer) -> tuple[NDArray[np.int64], NDArray[np.uint64]] | None:
    """Tokens and hashes of the documents that a folder holds; None for one that is not whole."""
    try:
        with (folder / "places.npz").open("rb") as file, np.load(file) as places:
            sizes, hashes = places["sizes"], places["hashes"]
        whole = sizes.dtype == np.int64 and hashes.dtype == np.uint64 and sizes.shape == hashes.shape == (len(sizes),)
        size = int(sizes.sum()) * np.dtype(_type(tokenizer)[0]).itemsize
        whole = whole and bool((sizes > 0).all()) and size == (folder / "tokens.bin").stat().st_size
    except Exception:  # whatever zipfile and numpy make of a damaged one
        return None
    return (sizes, hashes) if whole else None


def _type(tokenizer: Tokenizer) -> tuple[str, int]:
    """The type of the numbers of a flat file, and what is added to them: bytes are kept as bytes."""
    if tokenizer.per_byte:
        return "uint8", FIRST_BYTE
    return ("uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32"), 0


def _write(sources: Sequence[Source], tokenizer: Tokenizer, field: str, folder: Path) -> None:
    """The tokens of all documents in a flat file, and how many each has, with its hash."""
    dtype, shift = _type(tokenizer)
    sizes: list[int] = []
    hashes: list[int] = []
    with (folder / "tokens.bin").open("wb") as file:
        for pieces in _batches(sources, field):
            for piece, text in zip(pieces, tokenizer.encode([piece.text for piece in pieces]), strict=True):
                if piece.first:
                    sizes.append(0)
                file.write((text - shift).astype(dtype).tobytes())
                sizes[-1] += len(text)
                if piece.digest is not None:
                    hashes.append(piece.digest)
    if not sum(sizes):
        raise InputError("the files hold no text; give others")
    np.savez(folder / "places.npz", sizes=np.array(sizes, np.int64), hashes=np.array(hashes, np.uint64))


def _batches(sources: Sequence[Source], field: str) -> Iterator[list[Piece]]:
    pieces: list[Piece] = []
    size = 0
    for source in sources:
        for piece in read_pieces(source, field):
            pieces.append(piece)
            size += len(piece.text)
            if size >= BATCH:
                yield pieces
                pieces, size = [], 0
    yield pieces


def _whole(text: _Text, tokenizer: Tokenizer) -> SpanStream:
    count = len(text.sizes)
    return SpanStream(text.documents, tokenizer.end, np.arange(count), np.zeros(count, np.int64), text.sizes)


def _split(text: _Text, share: float, tokenizer: Tokenizer) -> tuple[SpanStream, SpanStream]:
    """What to train on and what is held out: whole documents by their hash, or of a few the last part of each."""
    kept = text.sizes
    held = text.hashes / 2.0**64 < share
    if len(kept) >= MANY and held.any() and not held.all():
        kept = np.where(held, 0, kept)
        in_train, in_held_out = np.flatnonzero(~held), np.flatnonzero(held)
    else:
        kept = kept - (kept * share).astype(np.int64)
        in_train, in_held_out = np.arange(len(kept)), np.flatnonzero(text.sizes > kept)
    if not kept.any():
        raise InputError(f"held_out={share} leaves no text to train on; hold out less")
    first = np.zeros(len(in_train), np.int64)
    return (
        SpanStream(text.documents, tokenizer.end, in_train, first, kept[in_train]),
        SpanStream(text.documents, tokenizer.end, in_held_out, kept[in_held_out], (text.sizes - kept)[in_held_out]),
    )


def _tokens(settings: DataSettings, sources: Sequence[Source], contents: Sequence[Content], cache: Path) -> Tokenizer:
    """The tokens to use; a BPE that was trained on the same text is found again."""
    if not settings.tokenizer.startswith(BPE):
        return load_tokenizer(settings.tokenizer)
    key = _key(settings.tokenizer, settings.field, [content.digest for content in contents])
    folder = cache / f"bpe-{key}"
    with FileLock(cache / f"bpe-{key}.lock"), tempfile.TemporaryDirectory(dir=cache, prefix="preparing-") as scratch:
        if not _is_tokenizer(folder):
            work = Path(scratch, "bpe")
            train_bpe(_sample(sources, settings.field), int(settings.tokenizer.removeprefix(BPE))).save(work)
            shutil.rmtree(folder, ignore_errors=True)
            work.rename(folder)
    return load_tokenizer(str(folder))


def _is_tokenizer(folder: Path) -> bool:
    """Whether a BPE was kept there, and is whole."""
    try:
        return (folder / "tokenizer.json").exists() and bool(load_tokenizer(str(folder)))
    except InputError:
        return False


def _sample(sources: Sequence[Source], field: str) -> Iterator[bytes]:
    size = 0
    for source in sources:
        for piece in read_pieces(source, field):
            yield piece.text
            size += len(piece.text)
            if size >= BPE_SAMPLE:
                return
