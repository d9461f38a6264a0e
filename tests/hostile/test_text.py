"""Files of text and rows that are damaged or made to do harm."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from reformer.data import reading
from reformer.data.corpus import read_documents
from reformer.data.prepare import prepare
from reformer.data.rows import read_rows
from reformer.errors import InputError
from reformer.settings.data import DataSettings
from tests.hostile.mutations import DEEP, FUZZ, harmless, spoilt_bytes

ROWS = [{"text": "the first row", "label": "a"}, {"text": '\u00e9t\u00e9, "quoted"\nand more', "label": "b"}] * 3


def _whole() -> dict[str, bytes]:
    """A file of each kind."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table = "text,label\n" + "".join(f'"{row["text"].replace(chr(34), chr(34) * 2)}",{row["label"]}\n' for row in ROWS)
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink)
    return {
        "a.txt": b"some text\n" * 9,
        "a.txt.gz": gzip.compress(b"some text\n" * 9),
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "a.json": json.dumps(ROWS).encode(),
        "a.csv": table.encode(),
        "a.tsv": table.replace(",", "\t").encode(),
        "a.parquet": sink.getvalue().to_pybytes(),
    }


WHOLE = _whole()


def read_all(path: Path) -> None:
    """By every reader that takes the file."""
    harmless(lambda: read_documents([path]))
    harmless(lambda: list(read_rows([path])))
    harmless(lambda: prepare(DataSettings(files=(str(path),)), cache=path.parent / "cache"))


@pytest.mark.parametrize("name", WHOLE)
def test_spoilt_text(name: str, tmp_path: Path) -> None:
    @FUZZ
    @given(spoilt_bytes(WHOLE[name]))
    @example(b"")
    @example(b"\0" * 50)
    @example(b"\xff\xfe" * 50)
    @example(b'{"text": ' + b"[" * DEEP)
    @example(b'{"text": "x", "n": ' + b"9" * DEEP + b"}\n")
    @example(b'[{"text": "x", "n": ' + b"9" * DEEP + b"}]")
    @example(gzip.compress(b"[" * DEEP))
    def check(data: bytes) -> None:
        path = tmp_path / name
        path.write_bytes(data)
        read_all(path)

    check()


def test_a_dataset_folder_that_is_spoilt(tmp_path: Path) -> None:
    from datasets import Dataset

    folder = tmp_path / "data"
    Dataset.from_list(ROWS).save_to_disk(str(folder))
    files = sorted(folder.iterdir())
    whole = {path: path.read_bytes() for path in files}

    @FUZZ
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(files))
        path.write_bytes(data.draw(spoilt_bytes(whole[path])))
        try:
            read_all(folder)
        finally:
            path.write_bytes(whole[path])

    check()


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_an_archive_that_unpacks_without_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PACKED", 1 << 20)
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"[" * (20 << 20)))
    for read in (read_documents, lambda paths: prepare(DataSettings(files=(str(path),)), cache=tmp_path / "cache")):
        with pytest.raises(
            InputError, match=r"a\..*gz unpacks to more than .* bytes, 300 times its size; if that is mean"
        ):
            read([path])
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.bin")) == 0
    path.write_bytes(gzip.compress(bytes(range(256)) * 8_000 + b"x"))  # 2 MB, 100 times its size
    monkeypatch.setattr(reading, "RATIO", 1_000)
    if name == "a.txt.gz":
        assert len(read_documents([path])[0].text) == 2_048_001


@pytest.mark.parametrize(
    ("name", "start"), [("a.jsonl", b'{"text": "'), ("a.json", b'[{"text": "'), ("a.csv", b"text\n")]
)
def test_a_row_that_is_too_long_to_hold(
    name: str, start: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    monkeypatch.setattr(reading, "ROW", 1 << 20)
    path = tmp_path / name
    with path.open("wb") as file:  # 64 MB that take no room on disk
        file.write(start)
        file.truncate(64 << 20)
    for read in (read_documents, lambda paths: list(read_rows(paths))):
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=r"over 1,048,576 bytes|larger than field limit"):
                read([path])
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def test_lines_may_end_in_every_way(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(f'\ufefftext,n{end}"eins{end}zwei",1{end}drei,2{end}'.encode())
        assert [row["text"] for _, row in read_rows([path])] == [f"eins{end}zwei", "drei"], repr(end)


def test_many_hostile_values_as_rows(tmp_path: Path) -> None:
    from tests.hostile.mutations import HOSTILE

    path = tmp_path / "a.jsonl"
    for value in HOSTILE:
        row: Any = {"text": value}
        path.write_bytes(json.dumps(row).encode("utf-8", "surrogatepass"))
        read_all(path)
