"""Text that is read as it comes: the tokens of prepared text, an order from the seed, and places to go on from."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer.data import streaming
from reformer.data.open_stream import open_stream
from reformer.data.prepare import Corpus, prepare
from reformer.data.streaming import LANES, PLACES, UNEVEN, StreamedCorpus, StreamedWindows, deal
from reformer.data.tokenizer import train_bpe
from reformer.settings.phases import Phase
from reformer.tasks.lm import LanguageModelling

SEED = 5
KINDS = ["text", "jsonl", "jsonl.gz", "parquet", "hub", "csv", "json"]
LENGTH = 32
LETTERS = random.Random(0)
TEXTS = [f"document {i}: " + "".join(LETTERS.choices("abcdefghijklmnop qrst", k=40 + 97 * i)) for i in range(14)]


def write(kind: str, folder: Path) -> str:
    """The texts in two shards or more of a kind; what to give as files."""
    folder.mkdir()
    if kind == "text":
        for i, text in enumerate(TEXTS):
            (folder / f"{i:02}.txt").write_text(text)
        return str(folder)
    halves = [TEXTS[:6], TEXTS[6:]]
    for number, texts in enumerate(halves):
        if kind == "parquet":
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.table({"text": texts}), folder / f"{number}.parquet", row_group_size=2)
            continue
        if kind in ("csv", "json"):
            listed = json.dumps([{"text": text} for text in texts])
            lines = "".join(f'"{text}"\n' for text in ("text", *texts))
            (folder / f"{number}.{kind}").write_text(lines if kind == "csv" else listed)
            continue
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        if kind == "jsonl.gz":
            with gzip.open(folder / f"{number}.jsonl.gz", "wt") as file:
                file.write(rows)
        else:
            (folder / f"{number}.jsonl").write_text(rows)
    patterns = {"hub": f"hf:{folder}", "csv": f"{folder}/*.csv", "json": f"{folder}/*.json"}
    return patterns.get(kind, str(folder))


def opened(files: str, **changes: Any) -> StreamedCorpus:
    settings = LanguageModelling(files=(files,), **{"held_out": 0.0, **changes})
    corpus = open_stream(settings, settings.shuffle_tokens if "shuffle_tokens" in changes else 1, lambda _: None)
    assert isinstance(corpus, StreamedCorpus)
    return corpus


def windows(corpus: StreamedCorpus, rows: int = 4, steps: int = 40, **options: Any) -> StreamedWindows:
    return StreamedWindows(corpus, [Phase(LENGTH, steps)], rows, SEED, **options)


def tokens_of(data: StreamedWindows, start: int = 0, end: int | None = None) -> list[bytes]:
    return [data[i]["input_ids"].numpy().tobytes() for i in range(start, len(data) if end is None else end)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_has_the_tokens_of_prepared_text(kind: str, tmp_path: Path) -> None:
    corpus = opened(write(kind, tmp_path / "text"), shuffle_tokens=7 * LENGTH)
    whole = [np.concatenate([[1], np.frombuffer(text.encode(), np.uint8).astype(np.int64) + 3]) for text in TEXTS]
    lanes = windows(corpus).lanes
    assert sum(len(lane.shards) for lane in lanes) == len(corpus.shards)
    found = []
    for lane in lanes:
        lane.size = 1
        parts = np.concatenate([lane.window(i) for i in range(400)])
        found.append(parts.astype(np.int64))
    for document in whole:
        assert any(document.tobytes() in lane.tobytes() for lane in found)


def test_a_text_that_fits_is_prepared(tmp_path: Path) -> None:
    settings = LanguageModelling(files=(write("text", tmp_path / "text"),), stream_data=True)
    streamed, prepared = settings.read(LENGTH, lambda _: None), prepare(settings, cache=tmp_path / "cache")
    assert isinstance(streamed, Corpus)
    assert streamed.fingerprint == prepared.fingerprint
    for a, b in ((streamed.train, prepared.train), (streamed.held_out, prepared.held_out)):
        assert np.array_equal(a.part(0, len(a)), b.part(0, len(b)))


def test_the_order_is_of_the_seed(tmp_path: Path) -> None:
    files = write("jsonl", tmp_path / "text")
    first = tokens_of(windows(opened(files, shuffle_tokens=20 * LENGTH)))
    assert first == tokens_of(windows(opened(files, shuffle_tokens=20 * LENGTH)))
    other = StreamedWindows(opened(files, shuffle_tokens=20 * LENGTH), [Phase(LENGTH, 40)], 4, SEED + 1)
    assert first != tokens_of(other)
    assert first != tokens_of(windows(opened(files)))  # a block of one: not shuffled
    unshuffled = tokens_of(windows(opened(files)))
    blocks = windows(opened(files, shuffle_tokens=20 * LENGTH)).lanes[0].size * 2
    assert sorted(first[: 4 * blocks]) == sorted(unshuffled[: 4 * blocks])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 9, 30])
def test_it_goes_on_at_its_place(kind: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(kind, tmp_path / "text")
    corpus = opened(files, shuffle_tokens=10 * LENGTH)
    whole = windows(corpus)
    expected = tokens_of(whole)
    again = windows(corpus)
    tokens_of(again, 0, 4 * step + 6)  # batches are made ahead of the step
    again.save(tmp_path / f"{PLACES}0.json", step)
    read: list[Any] = []
    original = streaming.read_from

    def spied(*arguments: Any) -> Any:
        read.append(arguments[2])
        return original(*arguments)

    monkeypatch.setattr(streaming, "read_from", spied)
    resumed = windows(corpus, resume=tmp_path)
    assert tokens_of(resumed, 4 * step) == expected[4 * step :]
    if step == 30:
        assert any(place is not None for place in read[:2])


def test_phases_and_another_number_of_processes(tmp_path: Path) -> None:
    corpus = opened(write("jsonl", tmp_path / "text"), shuffle_tokens=20 * LENGTH)
    phases = [Phase(8, 5), Phase(LENGTH, 20)]
    whole = StreamedWindows(corpus, phases, 4, SEED)
    assert [len(whole[i]["input_ids"]) for i in (0, 19, 20, 99)] == [8, 8, LENGTH, LENGTH]
    expected = tokens_of(whole)
    assert len(set(expected[:20])) == 20
    for rows in (2, 6):
        part = StreamedWindows(corpus, phases, 4, SEED)
        tokens_of(part, 0, 40)
        part.save(tmp_path / f"{PLACES}0.json", 10)
        resumed = StreamedWindows(corpus, phases, rows, SEED, past=[(10, 4)], resume=tmp_path)
        count = min(rows * 10, 60)
        assert tokens_of(resumed, rows * 10, rows * 10 + count) == expected[40 : 40 + count]


def test_each_process_writes_the_lanes_that_it_reads(tmp_path: Path) -> None:
    corpus = opened(write("text", tmp_path / "text"), shuffle_tokens=40 * LENGTH)
    expected = tokens_of(windows(corpus, rows=2))
    for rank in (0, 1):
        own = windows(corpus, rows=2)
        for step in range(20):
            own[2 * step + rank]
        own.save(tmp_path / f"{PLACES}{rank}.json", 20)
    places = [json.loads((tmp_path / f"{PLACES}{rank}.json").read_text()) for rank in (0, 1)]
    assert not places[0].keys() & places[1].keys()
    assert len(places[0]) + len(places[1]) == len(windows(corpus).lanes)
    resumed = windows(corpus, rows=2, resume=tmp_path)
    assert tokens_of(resumed, 40) == expected[40:]
    assert any(max(lane.begins) for lane in resumed.lanes)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    corpus = opened(write("jsonl", tmp_path / "text"), held_out=0.3)
    held = bytes(int(token) - 3 for token in corpus.held_out.part(0, len(corpus.held_out)) if token > 2)
    names = [f"document {i}: " for i in range(14)]
    out = [name for name in names if name.encode() in held]
    assert 0 < len(out) < 10
    data = windows(corpus, steps=200)
    seen = b"".join(
        bytes(int(token) - 3 for token in np.concatenate([lane.window(i) for i in range(300)]) if token > 2)
        for lane in data.lanes
    )
    for name in names:
        assert (name.encode() in seen) == (name not in out)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": "bpe:300"}, "stream_data reads text once"),
        ({"files": ("-",)}, "is standard input; write it to a file"),
        ({"files": ("hf:./nowhere/at/all",)}, "is no dataset that can be streamed"),
        ({"files": ("missing.txt",)}, "missing.txt"),
    ],
)
def test_what_cannot_be_streamed(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings = LanguageModelling(**{"files": (write("text", tmp_path / "text"),), **changes})
    with pytest.raises(ValueError, match=said):
        open_stream(settings, 1, lambda _: None)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    corpus = opened(write("jsonl", tmp_path / "text"), held_out=0.999999)
    with pytest.raises(ValueError, match="the text to train on is empty, or all of it is held out"):
        windows(corpus)[0]


@pytest.mark.parametrize("written", ["[]", '{"0": 1}', '{"0": {"block": 1, "what": 2}}', '{"99": {"block": 1}}'])
def test_damaged_places(written: str, tmp_path: Path) -> None:
    corpus = opened(write("text", tmp_path / "text"))
    (tmp_path / f"{PLACES}0.json").write_text(written)
    with pytest.raises(ValueError, match=r"places_0.json"):
        windows(corpus, resume=tmp_path)


def seen_by(data: StreamedWindows, count: int = 60) -> bytes:
    """What the first windows of all lanes hold."""
    tokens = np.concatenate([lane.window(i) for lane in data.lanes for i in range(count)])
    return bytes(int(token) - 3 for token in tokens if token > 2)


def test_of_many_files_whole_ones_are_held_out(tmp_path: Path) -> None:
    corpus = opened(write("text", tmp_path / "text"), held_out=0.4)
    held = bytes(int(token) - 3 for token in corpus.held_out.part(0, len(corpus.held_out)) if token > 2)
    out = [text for text in TEXTS if text.encode() in held]
    assert 0 < len(out) < len(TEXTS)
    seen = seen_by(windows(corpus))
    assert all((text[:14].encode() in seen) == (text not in out) for text in TEXTS)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_of_a_few_files_the_last_parts_are_held_out(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("".join(f"<{i:05}>" for i in range(3000)))
    (tmp_path / "two.txt").write_text("".join(f"[{i:05}]" for i in range(2000)))
    files = (str(tmp_path / "one.txt"), str(tmp_path / "two.txt"))
    if tokenizer == "bpe":
        train_bpe(iter([Path(file).read_bytes() for file in files]), 300).save(tmp_path / "bpe")
        tokenizer = str(tmp_path / "bpe")
    corpus = open_stream(LanguageModelling(files=files, tokenizer=tokenizer, held_out=0.1), 1, lambda _: None)
    assert isinstance(corpus, StreamedCorpus)
    held = corpus.tokenizer.as_bytes(corpus.held_out.part(0, len(corpus.held_out)).tolist()).decode()
    assert held == "".join(f"<{i:05}>" for i in range(2700, 3000)) + "".join(f"[{i:05}]" for i in range(1800, 2000))
    tokens = np.concatenate([lane.window(i) for lane in windows(corpus).lanes for i in range(2 * 3000 * 7 // LENGTH)])
    seen = corpus.tokenizer.as_bytes(tokens.tolist()).decode()
    assert "<02699>" in seen
    assert "[01799]" in seen
    assert "<02700>" not in seen
    assert "[01800]" not in seen


def test_lanes_have_about_as_much_text_each() -> None:
    assert [len(lane) for lane in deal([5] * 20, range(20))] == [1] * 20
    assert len(deal([5] * 49, range(49))) == 25 or max(map(len, deal([5] * 49, range(49)))) <= 2
    assert len(deal([3000, *[2] * 7], range(8))) == 1
    assert len(deal([7], [0])) == 1
    sizes = random.Random(1).choices(range(1, 1000), k=500)
    lanes = deal(sizes, range(500))
    assert len(lanes) == LANES
    sums = [sum(sizes[shard] for shard in lane) for lane in lanes]
    assert max(sums) <= UNEVEN * sum(sums) / len(sums)
    assert sorted(shard for lane in lanes for shard in lane) == list(range(500))


def test_a_lane_without_text_reads_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.bin").write_bytes(bytes(400))
        (folder / f"{i}.txt").write_text(f"<{i:05}>" * 57)
    corpus = opened(str(folder), shuffle_tokens=8 * LENGTH)
    data = windows(corpus)
    assert len(data.lanes) == 6
    expected = tokens_of(data)
    assert {bytes(int(t) - 3 for t in np.frombuffer(window, np.int64) if t > 2)[:8] for window in expected}
    part = windows(corpus)
    tokens_of(part, 0, 100)
    part.save(tmp_path / f"{PLACES}0.json", 25)
    assert tokens_of(windows(corpus, resume=tmp_path), 100) == expected[100:]


def test_lengths_that_do_not_divide(tmp_path: Path) -> None:
    corpus = opened(write("text", tmp_path / "text"))
    with pytest.raises(ValueError, match=r"windows of 24 tokens, which are cut out of windows of length=32"):
        StreamedWindows(corpus, [Phase(24, 2), Phase(32, 2)], 1, SEED)


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write("jsonl", tmp_path / "text")
    monkeypatch.setattr("reformer.data.shards.ROW", 100)
    with pytest.raises(ValueError, match=r"the line at byte \d+: it is over 100 bytes"):
        tokens_of(windows(opened(files)))
