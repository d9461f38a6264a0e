"""Where text lies: files, folders, patterns, standard input, and of what kind each is."""

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from reformer.errors import InputError
from reformer.settings.data import HUB

Kind = Literal["text", "jsonl", "json", "separated", "parquet", "dataset"]

_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "separated", ".tsv": "separated",
    ".parquet": "parquet",
}  # fmt: skip

_PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard", b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"\x04\x22\x4d\x18": "LZ4",
}  # fmt: skip
"""What files begin with that hold no text as it is."""

STANDARD_INPUT = "-"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A file of text, or a folder that `datasets` wrote, as it was when it was found."""

    path: Path
    name: str
    kind: Kind
    compressed: bool
    size: int
    """Bytes on disk."""
    changed_ns: int
    """When it was last written."""
    skip_binary: bool = False
    """Found in a folder: left out if it has a NUL byte."""

    def check_unchanged(self) -> None:
        """InputError if the file is another one than was found."""
        if self.kind != "dataset" and _state(self.path) != (self.size, self.changed_ns):
            raise InputError(f"{self.name} changed while it was read; wait until it is written, or give a copy")

    def read(self) -> tuple[bytes, int, bool]:
        """A hash of the content, that by which a whole document is held out, and whether its first block has a NUL."""
        digest = blake2b(f"{self.kind} {self.compressed} {self.skip_binary}".encode(), digest_size=16)
        document, binary, first = blake2b(digest_size=8), False, True
        files = sorted(self.path.glob("**/*.arrow")) if self.kind == "dataset" else [self.path]
        for path in files:
            with readable(path, self.name), path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    document.update(block)
                    binary, first = binary or (first and b"\0" in block), False
        self.check_unchanged()
        return digest.digest(), int.from_bytes(document.digest(), "big"), binary


class readable:  # noqa: N801 - a context manager
    """Turns the ways in which a file cannot be read into one InputError that names it."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path, self.name = path, name or str(path)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{self.name} does not exist; give a file or a folder of text") from None
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{self.name} cannot be read ({error.strerror}); check its permissions") from None


def find_sources(paths: Sequence[str | Path], scratch: Path | None = None, raw: bool = False) -> list[Source]:
    """The sources that paths and patterns stand for, in order; a folder stands for the text files below it.

    `scratch` is where standard input (-) is kept. `raw`: every file is a text, whatever it holds. Raises InputError for
    what is missing, empty or unreadable, and for a folder or a pattern without files.
    """
    sources: list[Source] = []
    for given in map(str, paths):
        if not given:
            raise InputError("a path is empty; give a file, a folder or a pattern (is a variable not set?)")
        if given.startswith(HUB):
            raise InputError(
                f"{given} is a dataset of the Hub, which `reformer train --stream-data` reads to train on; otherwise "
                "download it first"
            )
        if given == STANDARD_INPUT:
            sources.append(_standard_input(scratch))
            continue
        path = Path(given)
        matches = [path]
        if not os.path.lexists(given) and glob.has_magic(given):
            matches = [Path(match) for match in sorted(glob.glob(given, recursive=True)) if not Path(match).is_dir()]
            if not matches:
                raise InputError(f"{given} matches no file; quote patterns that the shell is not to expand")
        for match in matches:
            sources += _folder(match) if match.is_dir() else [source_of(match, raw=raw)]
    return sources


def source_of(path: Path, name: str | None = None, skip_binary: bool = False, raw: bool = False) -> Source:
    """The source that one file is, by its suffixes; below a folder, tables (.csv, .tsv, .json) are texts as others."""
    size, changed = _state(path)
    if not size and not skip_binary:
        raise InputError(f"{path} is empty; give a file with text")
    suffixes = [] if raw else [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    kind = _KINDS.get("".join(suffixes[-2 if compressed else -1 :][:1]), "text")
    if skip_binary and kind in ("separated", "json"):
        kind = "text"
    if kind == "text" and not (compressed or raw or skip_binary):
        _refuse_packed(path)
    if compressed and kind == "parquet":
        raise InputError(f"{path} is a compressed Parquet file; unpack it: Parquet compresses by itself")
    return Source(path, name or str(path), kind, compressed, size, changed, skip_binary)


def _refuse_packed(path: Path) -> None:
    """InputError for a file that no reader knows, by its first bytes."""
    with readable(path), path.open("rb") as file:
        start = file.read(6)
    for magic, kind in _PACKED.items():
        if start.startswith(magic):
            raise InputError(f"{path} is packed ({kind}); unpack it, or give --raw to take it as the bytes that it is")


def _folder(folder: Path) -> list[Source]:
    if (folder / "dataset_dict.json").exists():
        if not (folder / "train" / "state.json").exists():
            raise InputError(f"{folder} is a datasets folder without a split 'train'; give the folder of one split")
        folder = folder / "train"
    if (folder / "state.json").exists() and (folder / "dataset_info.json").exists():
        size = sum(path.stat().st_size for path in folder.glob("*.arrow"))
        return [Source(folder, str(folder), "dataset", False, size, 0)]
    with readable(folder):
        os.listdir(folder)
    sources = [source_of(path, skip_binary=True) for path in sorted(_files_below(folder))]
    sources = [source for source in sources if source.size]
    if not sources:
        raise InputError(f"{folder} holds no text (files that are not empty and have no NUL byte); give another folder")
    return sources


def _files_below(folder: Path) -> Iterator[Path]:
    """Files that are not hidden; a folder that is reached twice, as through a link to a parent, counts once."""
    seen: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here = os.stat(where)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(where, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from None


def _standard_input(scratch: Path | None) -> Source:
    """Standard input, kept in a file: it is read more than once."""
    if sys.stdin.isatty():
        raise InputError("- is standard input, which is a terminal here; pipe a text in")
    handle, name = tempfile.mkstemp(dir=scratch, prefix="standard-input-")
    with os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    path = Path(name)
    if not path.stat().st_size:
        path.unlink()
        raise InputError("standard input is empty; pipe a text in")
    return source_of(path, "standard input")


def _state(path: Path) -> tuple[int, int]:
    with readable(path):
        state = path.stat()
    return state.st_size, state.st_mtime_ns
