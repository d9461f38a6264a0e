from pathlib import Path

import numpy as np
import pytest

from reformer.data.byte_model import ByteModel
from reformer.data.byte_tokens import END, ByteDecoder, encode
from reformer.data.corpus import Document, read_documents, split_held_out, standard_library
from reformer.data.windows import TrainingWindows, evaluation_windows, join_documents


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
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setattr(Path, "read_bytes", refuse)
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


def test_training_windows() -> None:
    stream = join_documents([Document("a", b"abc"), Document("b", b"defg")])
    assert stream.tolist() == [1, 100, 101, 102, 1, 103, 104, 105, 106]
    windows = TrainingWindows(stream, 4)
    assert [w["input_ids"].tolist() for w in (windows[0], windows[1])] == [[1, 100, 101, 102], [1, 103, 104, 105]]
    assert len(windows) == 2
    assert len(TrainingWindows(stream, 100)) == 1


def test_evaluation_windows_predict_each_byte_once() -> None:
    for size in (1, 2, 5, 9, 10, 11, 20):
        document = Document("a", bytes(range(size)))
        for length in (2, 3, 10):
            predicted = [t for window in evaluation_windows(document, length) for t in window[1:].tolist()]
            assert predicted == encode(document.text).tolist()


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
