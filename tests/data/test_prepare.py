"""A corpus is prepared once for every length, and found again; a start reads only what has changed."""

import gzip
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from reformer.data import prepare as preparing
from reformer.data.corpus import read_documents, split_held_out
from reformer.data.prepare import Corpus, prepare
from reformer.data.sources import Source
from reformer.data.stream import join_documents
from reformer.data.tokenizer import ByteTokenizer, load_tokenizer, tokenizer_of, train_bpe
from reformer.errors import InputError
from reformer.tasks.lm import LanguageModelling


def whole(corpus: Corpus) -> tuple[list[int], list[int]]:
    return tuple(stream.part(0, len(stream)).tolist() for stream in (corpus.train, corpus.held_out))  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "text").mkdir()
    for i in range(6):
        (tmp_path / "text" / f"{i}.txt").write_bytes(rng.integers(32, 127, int(rng.integers(50, 900))).astype(np.uint8))
    with (tmp_path / "text" / "many.jsonl").open("w") as file:
        for i in range(200):
            file.write(json.dumps({"text": f"document {i} " * int(rng.integers(1, 9))}) + "\n")
    return tmp_path


@pytest.mark.parametrize("only", ["text", "text/*.txt", "text/0.txt", "text/many.jsonl"])
@pytest.mark.parametrize("held_out", [0.0, 0.2])
def test_equals_documents_in_memory(folder: Path, only: str, held_out: float, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (str(folder / only),)
    train, test = split_held_out(read_documents(files), held_out)
    expected = tuple(join_documents(part).part(0, 10**6).tolist() for part in (train, test))
    for batch in (1 << 20, 100):
        monkeypatch.setattr(preparing, "BATCH", batch)
        corpus = prepare(LanguageModelling(files=files, held_out=held_out), cache=folder / f"cache-{batch}")
        assert whole(corpus) == expected
        for start in (0, 1, 3, len(expected[0]) - 5, len(expected[0])):
            for count in (0, 1, 120):
                assert corpus.train.part(start, start + count).tolist() == expected[0][start : start + count]
        assert corpus.train.part(10**6, 10**6 + 5).tolist() == []
        again = pickle.loads(pickle.dumps(corpus.train))  # as a worker of a loader gets it
        assert again.part(0, 50).tolist() == expected[0][:50]


def test_tokens_of_a_bpe(folder: Path) -> None:
    (folder / "text" / "end.txt").write_text("a text that spells <end> and <pad> " * 9)
    settings = LanguageModelling(files=(str(folder / "text"),), tokenizer="bpe:300")
    corpus = prepare(settings, cache=folder / "cache")
    found = whole(corpus)
    assert sum(part.count(corpus.tokenizer.end) for part in found) == 6 + 200 + 1
    train, test = split_held_out(read_documents(settings.files), settings.held_out)
    assert found == tuple(join_documents(part, corpus.tokenizer).part(0, 10**6).tolist() for part in (train, test))
    (folder / "text" / "wrong.jsonl").write_text('{"text": "a"}\n{"txt": "b"}')
    with pytest.raises(InputError, match=r"wrong\.jsonl, line 2: no field 'text'"):
        prepare(settings, cache=folder / "elsewhere")
    left = {path.suffix for path in (folder / "elsewhere").iterdir()}
    assert left == {".lock", ".sqlite"}  # nothing half-written


def test_bytes_of_plain_files_are_read_where_they_lie(folder: Path) -> None:
    files = (str(folder / "text" / "*.txt"),)
    corpus = prepare(LanguageModelling(files=files), cache=folder / "cache")
    assert {path.name for path in (folder / "cache").iterdir()} == {"contents.lock", "contents.sqlite"}
    before = corpus.train.part(0, 40).tolist()
    assert before[1:] == [byte + 3 for byte in (folder / "text" / "0.txt").read_bytes()[:39]]
    (folder / "text" / "0.txt").write_bytes(b"another text")
    with pytest.raises(InputError, match=r"0\.txt changed while it was read"):
        corpus.train.part(0, 40)


def test_found_again_until_something_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = folder / "cache"
    calls: list[str] = []
    original = preparing._write
    monkeypatch.setattr(preparing, "_write", lambda *a: (calls.append("tokenized"), original(*a))[1])

    def again(**changes: Any) -> int:
        calls.clear()
        prepare(LanguageModelling(files=(str(folder / "text"),), **changes), cache=cache)
        return len(calls)

    assert again() == 1
    assert again() == 0
    assert again(documents="apart") == 0
    assert again(held_out=0.3) == 0
    assert again(tokenizer="bpe:300") == 1
    assert again(tokenizer="bpe:300") == 0
    assert again(held_out_files=(str(folder / "text" / "many.jsonl"),)) == 1
    (folder / "text" / "0.txt").touch()  # the same content
    assert again() == 0
    (folder / "text" / "0.txt").write_bytes(b"another text")
    assert again() == 1


def test_a_start_reads_what_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Source.read
    monkeypatch.setattr(Source, "read", lambda source: (read.append(source.path.name), original(source))[1])
    long_ago = time.time() - 60
    for path in (folder / "text").iterdir():
        os.utime(path, (long_ago, long_ago))

    def names() -> list[str]:
        read.clear()
        prepare(LanguageModelling(files=(str(folder / "text"),)), cache=folder / "cache")
        return sorted(read)

    assert len(names()) == 7
    assert names() == []
    (folder / "text" / "3.txt").write_bytes(b"another text")
    assert names() == ["3.txt"]
    assert names() == ["3.txt"]  # its time is that of the reading, so it may have changed within it
    os.utime(folder / "text" / "3.txt", (long_ago + 9, long_ago + 9))
    assert [names(), names()] == [["3.txt"], []]
    (folder / "cache" / "contents.sqlite").write_bytes(b"damaged" * 1000)
    assert [len(names()) for _ in range(3)] == [7, 7, 0]  # taken away, made anew, used


def test_files_with_nul_bytes_are_left_out_of_folders(folder: Path) -> None:
    (folder / "text" / "many.jsonl").unlink()
    before = whole(prepare(LanguageModelling(files=(str(folder / "text"),)), cache=folder / "cache"))
    (folder / "text" / "picture.png").write_bytes(b"a picture\0\1")
    assert whole(prepare(LanguageModelling(files=(str(folder / "text"),)), cache=folder / "cache")) == before
    with gzip.open(folder / "text" / "6.txt.gz", "wb") as packed:  # its bytes hold NULs, its text does not
        packed.write(b"a text " * 50)
    more = whole(prepare(LanguageModelling(files=(str(folder / "text"),)), cache=folder / "cache"))
    assert sum(map(len, more)) == sum(map(len, before)) + 350 + 2  # the end token of what is held out of it too


def test_held_out_files(folder: Path) -> None:
    files, held_out = str(folder / "text" / "0.txt"), str(folder / "text" / "1.txt")
    corpus = prepare(LanguageModelling(files=(files,), held_out_files=(held_out,)), cache=folder / "cache")
    assert whole(corpus) == tuple(
        join_documents(read_documents([f])).part(0, 10**6).tolist() for f in (files, held_out)
    )


def test_what_holds_no_text_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(ValueError, match="hold no text"):
        prepare(LanguageModelling(files=(str(tmp_path / "a.jsonl"),)), cache=tmp_path / "cache")


def test_a_bpe_loses_no_text(tmp_path: Path) -> None:
    text = "to be or not to be, that is the question: ☃ déjà <end> <pad>\n  two"
    tokenizer = train_bpe([text.encode()] * 20, 300)
    (found,) = tokenizer.encode([text.encode()])
    assert found.dtype == np.uint16
    assert tokenizer.end not in found  # <end> in a text is text
    assert tokenizer.as_bytes(found.tolist()).decode() == text
    assert len(found) < len(text.encode())
    decoder = tokenizer.decoder()
    pieces = [decoder.feed(int(token)) for token in found]
    assert "".join(pieces) + decoder.finish() == text
    snowman = tokenizer.encode(["☃".encode()])[0].tolist()
    decoder = tokenizer.decoder()
    assert all(decoder.feed(token) == "" for token in snowman[:-1])
    assert decoder.feed(snowman[-1]) == "☃"
    (odd,) = tokenizer.encode([b"a\xffb"])
    assert tokenizer.as_bytes(odd.tolist()).decode() == "a\ufffdb"
    tokenizer.save(tmp_path)
    again = tokenizer_of(tmp_path)
    assert again.identity == tokenizer.identity
    assert again.encode([text.encode()])[0].tolist() == found.tolist()
    assert isinstance(tokenizer_of(tmp_path / "none"), ByteTokenizer)


def test_folders_that_hold_no_tokenizer(tmp_path: Path) -> None:
    for given, message in (
        ("no/such/folder", "is neither bytes, nor bpe:SIZE, nor a folder"),
        (str(tmp_path), "holds no tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            load_tokenizer(given)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no tokenizer that can be read"):
        load_tokenizer(str(tmp_path))
    endless = train_bpe([b"abc"], 300).backend
    PreTrainedTokenizerFast(tokenizer_object=endless).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no end token"):
        load_tokenizer(str(tmp_path))
    for given, message in (("bpe:12", "at least 259"), ("bpe:x", "at least 259"), ("", "is empty")):
        with pytest.raises(ValueError, match=message):
            LanguageModelling(tokenizer=given)


def test_a_cache_that_cannot_be_written_to(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("no folder")
    settings = LanguageModelling(files=(str(folder / "text" / "many.jsonl"),))
    corpus = prepare(settings, cache=tmp_path / "file" / "cache", say=said.append)
    assert whole(corpus) == whole(prepare(settings, cache=tmp_path / "cache"))
    (line,) = [line for line in said if "can be kept" in line]
    assert line.startswith(
        f"nothing can be kept in {tmp_path}/file/cache (Not a directory): this run prepares its text"
    )
