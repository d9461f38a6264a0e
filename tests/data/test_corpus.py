from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reformer.data.byte_model import ByteModel
from reformer.data.byte_tokens import END, ByteDecoder, encode
from reformer.data.corpus import Document, read_documents, split_held_out, standard_library
from reformer.data.stream import ArrayStream, join_documents
from reformer.data.tokenizer import ByteTokenizer
from reformer.data.windows import Collate, HeldOutWindows, TrainingWindows, evaluation_windows
from reformer.settings.phases import Phase


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"bee")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_bytes(b"ay")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(b"x\0y")
    (tmp_path / ".hidden").write_bytes(b"h")
    assert [d.text for d in read_documents([tmp_path])] == [b"bee", b"ay"]
    assert [d.text for d in read_documents([tmp_path / "binary"])] == [b"x\0y"]


def test_bad_paths(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, message in (("none", "does not exist"), ("empty", "is empty"), ("folder", "holds no text")):
        with pytest.raises(ValueError, match=f"{name} {message}"):
            read_documents([tmp_path / name])


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match="cannot be read \\(Permission denied\\)"):
        read_documents([tmp_path / "x"])


def test_the_embedded_corpus_and_its_held_out_part() -> None:
    documents = standard_library()
    assert sum(len(d.text) for d in documents) > 5_000_000
    assert not any("test" in d.name.split("/") or "site-packages" in d.name for d in documents)
    train, held_out = split_held_out(documents, 0.05)
    assert split_held_out(documents, 0.05) == (train, held_out)
    assert {d.name for d in train} | {d.name for d in held_out} == {d.name for d in documents}
    assert not {d.name for d in train} & {d.name for d in held_out}
    assert 0.01 < sum(len(d.text) for d in held_out) / sum(len(d.text) for d in documents) < 0.15


def test_of_few_documents_the_last_part_is_held_out() -> None:
    train, held_out = split_held_out([Document("a", b"x" * 90 + b"y" * 10), Document("b", b"zz")], 0.1)
    assert [d.text for d in train] == [b"x" * 90, b"zz"]
    assert [d.text for d in held_out] == [b"y" * 10]


def test_bytes_survive_their_round_trip() -> None:
    text = bytes(range(256)) + "héé€😀".encode()
    assert encode(text).min() == 3
    assert (encode(text) - 3).astype(np.uint8).tobytes() == text
    decoder = ByteDecoder()
    assert "".join(decoder.feed(int(t)) for t in encode("€😀".encode())) + decoder.finish() == "€😀"
    decoder = ByteDecoder()
    assert "".join(decoder.feed(int(t)) for t in encode(b"a\xff\xe2")) + decoder.feed(END) + decoder.finish() == "a��"


def rows(windows: TrainingWindows) -> list[list[int]]:
    return [windows[i]["input_ids"].tolist() for i in range(len(windows))]


def test_documents_are_joined_behind_their_end_tokens() -> None:
    stream = join_documents([Document("a", b"abc"), Document("b", b"defg")])
    assert stream.part(0, 100).tolist() == [1, 100, 101, 102, 1, 103, 104, 105, 106]


def test_each_pass_takes_every_window_of_a_grid_once() -> None:
    stream = ArrayStream(np.arange(107, dtype=np.uint16))
    windows = TrainingWindows(stream, [Phase(10, 27)], rows=1, seed=3)
    assert windows.grid(10) == 9
    offsets = []
    for turn in range(3):
        starts = [row[0] for row in rows(windows)[turn * 9 : turn * 9 + 9]]
        assert starts != sorted(starts)
        assert np.diff(sorted(starts)).tolist() == [10] * 8
        offsets.append(min(starts))
    assert len(set(offsets)) > 1
    assert all(offset < 10 for offset in offsets)
    assert all(np.diff(row).tolist() == [1] * 9 for row in rows(windows))
    again = TrainingWindows(stream, [Phase(10, 27)], rows=1, seed=3)
    assert again[20]["input_ids"].equal(windows[20]["input_ids"])  # whatever was asked for before
    assert rows(TrainingWindows(stream, [Phase(10, 27)], rows=1, seed=4)) != rows(windows)


def test_short_texts_and_short_windows_first() -> None:
    stream = ArrayStream(np.arange(30, dtype=np.uint16))
    assert rows(TrainingWindows(stream, [Phase(100, 2)], rows=1, seed=0)) == [list(range(30))] * 2
    windows = TrainingWindows(stream, [Phase(4, 3), Phase(20, 2)], rows=2, seed=0)
    assert [len(row) for row in rows(windows)] == [4] * 6 + [20] * 4


def test_held_out_windows_predict_each_token_once() -> None:
    stream = ArrayStream(np.arange(50, dtype=np.uint16))
    windows = HeldOutWindows(stream, 8)
    predicted = [token for i in range(len(windows)) for token in windows[i]["input_ids"][1:].tolist()]
    assert predicted == list(range(1, 50))
    few = HeldOutWindows(stream, 8, most=25)
    assert [few[i]["input_ids"][0].item() for i in range(len(few))] == [0, 21, 42]
    assert len(HeldOutWindows(ArrayStream(np.zeros(0, np.uint16)), 8)) == 0


def test_a_batch_has_padding_and_documents_apart() -> None:
    stream = join_documents([Document("a", b"abc"), Document("b", b"d")])
    parts = [torch.from_numpy(stream.part(*part)) for part in ((1, 6), (2, 4))]
    items = [{"input_ids": part, "labels": part} for part in parts]
    batch = Collate(ByteTokenizer(), apart=True)(items)
    assert batch["input_ids"].tolist() == [[100, 101, 102, 1, 103], [101, 102, 0, 0, 0]]
    assert batch["labels"].tolist() == [[100, 101, 102, -100, 103], [101, 102, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1, 1], [0] * 5]
    assert set(Collate(ByteTokenizer())(items[:1])) == {"input_ids", "labels"}


def test_evaluation_windows_predict_each_byte_once() -> None:
    for size in (1, 2, 5, 9, 10, 11, 20):
        document = Document("a", bytes(range(size)))
        for length in (2, 3, 10):
            for stride in {1, length - 1}:
                windows = list(evaluation_windows(document, ByteTokenizer(), length, stride))
                predicted = [token for window, last in windows for token in window[-last:].tolist()]
                assert predicted == encode(document.text).tolist()
                assert all(len(window) - last >= min(length - stride, 1) for window, last in windows[1:])
                assert all(len(window) == min(length, size + 1) for window, _ in windows)


def test_byte_models() -> None:
    text = b"abracadabra" * 200
    order0, order2 = ByteModel(text, 0), ByteModel(text, 2)
    counts = np.bincount(np.frombuffer(text, np.uint8), minlength=256) / len(text)
    entropy = -sum(p * np.log2(p) for p in counts if p)
    assert abs(order0.bits_per_byte(text) - entropy) < 0.02
    assert order2.bits_per_byte(text) < 0.5  # the last two bytes nearly settle the next
    total = (order2.counts[2].sum(), order2.counts[1].sum(), order2.counts[0].sum())
    assert total == (len(text) - 2, len(text) - 1, len(text))
    by_hand, totals = 1 / 256, order2.counts[0].sum()
    p0 = (order2.counts[0][0, ord("c")] + 4 * by_hand) / (totals + 4)
    p1 = (order2.counts[1][ord("a"), ord("c")] + 4 * p0) / (order2.counts[1][ord("a")].sum() + 4)
    context = ord("r") * 256 + ord("a")
    p2 = (order2.counts[2][context, ord("c")] + 4 * p1) / (order2.counts[2][context].sum() + 4)
    assert abs(order2.bits_per_byte(b"rac") + np.log2(p2)) < 1e-12
