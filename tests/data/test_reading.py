"""Every way in which text is read, with files that are friendly and files that are not."""

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from reformer.data import reading
from reformer.data.corpus import read_documents
from reformer.data.reading import document_hash, read_pieces
from reformer.data.sources import find_sources

TEXTS = ["one\nline", "", "zwei ☃", "three"]


def texts(*paths: Path | str, field: str = "text") -> list[str]:
    return [document.text.decode() for document in read_documents(paths, field)]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in TEXTS) + "\n\n")
    assert texts(path) == ["one\nline", "zwei ☃", "three"]
    assert [document.name for document in read_documents([path])] == [f"{path}:{i}" for i in (1, 2, 3)]
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert texts(packed) == texts(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "ok"}\n{"text": ', "line 2: no JSON"),
        ('{"text": "ok"}\n\n["text"]', "line 3: a list, not an object"),
        ('{"txt": "ok"}', "line 1: no field 'text'; it has 'txt': choose one with --field"),
        ('{"text": 3}', "line 1: field 'text' is int, not text"),
        ('{"text": null}', "line 1: field 'text' is NoneType, not text"),
        ('{"text": "\xe9"}', "line 1: it is not UTF-8"),
        ("[" * 100_000, "line 1: no JSON"),
        ('{"text": ""}\n', "hold no text"),
    ],
)
def test_json_lines_that_are_wrong(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        texts(path)


def test_lone_surrogates_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b"}')
    assert read_documents([path])[0].text == b"a\xed\xa0\x80b"


def test_parquet_and_datasets_folders(tmp_path: Path) -> None:
    table = pa.table({"body": TEXTS, "n": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", field="body") == ["one\nline", "zwei ☃", "three"]
    Dataset(table).save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": Dataset(table)}).save_to_disk(str(tmp_path / "splits"))
    DatasetDict({"test": Dataset(table)}).save_to_disk(str(tmp_path / "other"))
    for name in ("saved", "splits"):
        assert texts(tmp_path / name, field="body") == ["one\nline", "zwei ☃", "three"]
        with pytest.raises(ValueError, match="no column 'text'; it has 'body', 'n'"):
            texts(tmp_path / name)
    with pytest.raises(ValueError, match="without a split 'train'"):
        texts(tmp_path / "other")
    with pytest.raises(ValueError, match="no column 'text'; it has 'body', 'n'"):
        texts(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="row 1: field 'n' is int"):
        texts(tmp_path / "a.parquet", field="n")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="is no Parquet file"):
        texts(tmp_path / "b.parquet", field="body")
    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match="compressed Parquet"):
        texts(tmp_path / "a.parquet.gz")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"saved cannot be read .*; write it again"):
        texts(tmp_path / "saved", field="body")


def test_packed_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"first ") + gzip.compress(b"") + gzip.compress(b"second"))  # an empty member
    assert texts(path) == ["first second"]
    path.write_bytes(gzip.compress(b"text " * 100)[:-9])
    with pytest.raises(ValueError, match="is no whole gzip file"):
        texts(path)
    path.write_bytes(b"not packed at all")
    with pytest.raises(ValueError, match="is no whole gzip file"):
        texts(path)
    path.write_bytes(gzip.compress(b"text " * 100)[:-8] + b"\1" * 8)
    with pytest.raises(ValueError, match="is no whole gzip file"):
        texts(path)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match="hold no text"):
        texts(path)


def test_patterns_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.txt", "b.md", "deep/c.txt", "deep/er/d.txt", "[odd].txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    assert texts("*.md", "a.txt") == ["b.md", "a.txt"]
    assert texts("**/c*.txt") == ["deep/c.txt"]
    assert texts("[odd].txt") == ["[odd].txt"]  # a name that looks like a pattern
    assert texts("deep") == ["deep/c.txt", "deep/er/d.txt"]
    with pytest.raises(ValueError, match="matches no file"):
        texts("*.rst")


def test_a_folder_that_leads_back_to_itself(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b.txt").symlink_to(tmp_path / "none")  # and a link to nothing
    (tmp_path / "c.txt").symlink_to(tmp_path / "sub" / "a.txt")
    assert texts(tmp_path) == ["a", "a"]


def test_mixed_encodings_are_bytes(tmp_path: Path) -> None:
    for name, encoding in (("a", "utf-8"), ("b", "latin-1"), ("c", "utf-16")):
        (tmp_path / name).write_bytes("déjà".encode(encoding))
    found = [document.text for document in read_documents([tmp_path / name for name in "abc"])]
    assert found == ["déjà".encode(encoding) for encoding in ("utf-8", "latin-1", "utf-16")]
    assert len(read_documents([tmp_path])) == 2  # UTF-16 has NUL bytes: in a folder it counts as binary


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"text": "more"}\n')


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"text": "some"}\n' * 3)
    (source,) = find_sources([path])
    pieces = read_pieces(source, "text")
    next(pieces)
    grow(path)
    with pytest.raises(ValueError, match="changed while it was read"):
        list(pieces)
    with pytest.raises(ValueError, match="changed while it was read"):
        source.read()
    os.remove(path)
    with pytest.raises(ValueError, match="does not exist"):
        list(read_pieces(source, "text"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"line of text\n" * 400,
        lambda: b"words and no lines " * 300,
        lambda: "☃é".encode() * 900,
        lambda: b"\xff\x80" * 3000,
        lambda: b"\n" + b"x" * 5000,
    ],
)
def test_long_documents_come_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes]
) -> None:
    monkeypatch.setattr(reading, "PIECE", 256)
    text = make()
    (tmp_path / "a.txt").write_bytes(text)
    (source,) = find_sources([tmp_path / "a.txt"])
    pieces = list(read_pieces(source, "text"))
    assert b"".join(piece.text for piece in pieces) == text
    assert len(pieces) > 5
    assert max(len(piece.text) for piece in pieces) <= 512
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [piece.digest for piece in pieces] == [None] * (len(pieces) - 1) + [document_hash(text)]
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps({"text": text.decode("utf-8", "surrogateescape")}))
    if text.isascii() or "☃".encode() in text:
        assert [piece.text for piece in read_pieces(find_sources([lines])[0], "text")] == [p.text for p in pieces]
    if "☃".encode() in text:
        assert all("\ufffd" not in piece.text.decode("utf-8", "replace") for piece in pieces)


def test_tables_are_read_as_what_they_are(tmp_path: Path) -> None:
    """The field of each row is a document; --raw takes the bytes, and below a folder a table is a text as others."""
    rows = [{"text": "one, two", "n": "1"}, {"text": "drei\nvier", "n": "2"}]
    files = {
        "a.csv": 'text,n\n"one, two",1\n"drei\nvier",2\n',
        "a.tsv": 'text\tn\none, two\t1\n"drei\nvier"\t2\n',
        "a.json": json.dumps(rows),
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    expected = [row["text"].encode() for row in rows]
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        for each in (name, f"{name}.gz"):
            assert [document.text for document in read_documents([tmp_path / each])] == expected, each
        (raw,) = read_documents([tmp_path / name], raw=True)
        assert raw.text == content.encode()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "settings.json").write_text("{}")
    (folder / "b.csv").write_text("x,y\n")
    assert [document.text for document in read_documents([folder])] == [b"x,y\n", b"{}"]


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, gzip.compress])
def test_what_no_reader_knows_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "text"
    path.write_bytes(pack(b"a text"))
    with pytest.raises(ValueError, match=r"text is packed .*; unpack it, or give --raw"):
        read_documents([path])
    assert read_documents([path], raw=True)[0].text == pack(b"a text")
