"""Documents from files and folders, and the corpus that every Python brings: its own standard library."""

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

MANY = 10  # documents from which on whole documents are held out
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True)
class Document:
    """A text and where it comes from."""

    name: str
    text: bytes


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """One document a file; a folder stands for the text files below it (those without a NUL byte), sorted.

    Raises ValueError for what is missing, empty or unreadable, and for a folder without text.
    """
    documents = []
    for path in paths:
        if path.is_dir():
            documents += _read_folder(path)
            continue
        text = _read(path)
        if not text:
            raise ValueError(f"{path} is empty; give a file with text")
        documents.append(Document(str(path), text))
    return documents


def standard_library() -> list[Document]:
    """The source of the Python standard library that runs this, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = (path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))
    documents = [Document(path.relative_to(root).as_posix(), path.read_bytes()) for path in sorted(sources)]
    return [document for document in documents if document.text]


def split_held_out(documents: Sequence[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    """Documents to train on and documents held out, the same ones each time.

    Of many documents whole ones are held out, by a hash of their text; of few, the last part of each.
    """
    if len(documents) >= MANY:
        held_out = [_hash_fraction(document.text) < fraction for document in documents]
        if any(held_out) and not all(held_out):
            train = [document for document, held in zip(documents, held_out, strict=True) if not held]
            return train, [document for document, held in zip(documents, held_out, strict=True) if held]
    cuts = [len(document.text) - int(len(document.text) * fraction) for document in documents]
    parts = list(zip(documents, cuts, strict=True))
    return (
        [Document(document.name, document.text[:cut]) for document, cut in parts if cut],
        [Document(document.name, document.text[cut:]) for document, cut in parts if cut < len(document.text)],
    )


def _hash_fraction(text: bytes) -> float:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") / 2**64


def _read_folder(folder: Path) -> list[Document]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hidden = (any(part.startswith(".") for part in path.relative_to(folder).parts) for path in paths)
    texts = ((path, _read(path)) for path, hide in zip(paths, hidden, strict=True) if not hide)
    documents = [Document(str(path), text) for path, text in texts if text and b"\0" not in text]
    if not documents:
        raise ValueError(f"{folder} holds no text (files that are not empty and have no NUL byte); give another folder")
    return documents


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give a file or a folder of text") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
