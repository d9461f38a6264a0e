"""Documents from files and folders, and the corpus that every Python brings: its own standard library."""

import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reformer.data.reading import document_hash, read_pieces
from reformer.data.sources import Source, find_sources, source_of
from reformer.errors import InputError

MANY = 10  # documents from which on whole documents are held out
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True)
class Document:
    """A text and where it comes from."""

    name: str
    text: bytes


def read_documents(paths: Sequence[str | Path], field: str = "text", raw: bool = False) -> list[Document]:
    """The documents of files, folders and patterns (`find_sources`), whole.

    Raises InputError for what is missing, empty or no text.
    """
    documents: list[Document] = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in find_sources(paths, Path(scratch), raw):
            documents += _documents(source, field)
    if not documents:
        raise InputError("the files hold no text; give others")
    return documents


def _documents(source: Source, field: str) -> Iterator[Document]:
    parts: list[bytes] = []
    number = 0
    for piece in read_pieces(source, field):
        parts.append(piece.text)
        if piece.digest is not None:
            number += 1
            name = source.name if source.kind == "text" else f"{source.name}:{number}"
            yield Document(name, b"".join(parts))
            parts = []


def standard_library_sources() -> list[Source]:
    """The files of the Python standard library that runs this, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))
    return [source_of(path, path.relative_to(root).as_posix()) for path in paths if path.stat().st_size]


def standard_library() -> list[Document]:
    """The documents of the Python standard library."""
    return [Document(source.name, source.path.read_bytes()) for source in standard_library_sources()]


def split_held_out(documents: Sequence[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    """Documents to train on and documents held out, the same ones each time.

    Of many documents whole ones are held out, by a hash of their text; of few, the last part of each.
    """
    if len(documents) >= MANY:
        held_out = [document_hash(document.text) / 2**64 < fraction for document in documents]
        if any(held_out) and not all(held_out):
            train = [document for document, held in zip(documents, held_out, strict=True) if not held]
            return train, [document for document, held in zip(documents, held_out, strict=True) if held]
    cuts = [len(document.text) - int(len(document.text) * fraction) for document in documents]
    parts = list(zip(documents, cuts, strict=True))
    return (
        [Document(document.name, document.text[:cut]) for document, cut in parts if cut],
        [Document(document.name, document.text[cut:]) for document, cut in parts if cut < len(document.text)],
    )
