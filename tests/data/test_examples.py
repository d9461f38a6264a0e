"""Rows of files to examples, and examples to batches."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reformer.data.batches import ExampleCollate, TrainingBatches
from reformer.data.byte_tokens import END, FIRST_BYTE
from reformer.data.corpus import Document
from reformer.data.examples import Example, Examples
from reformer.data.masking import MaskedWindows
from reformer.data.rows import read_rows
from reformer.data.stream import join_documents
from reformer.data.tokenizer import ByteTokenizer
from reformer.data.windows import HeldOutWindows
from reformer.settings.run_file import data_of
from reformer.tasks import tasks

ROWS = [{"text": f'text, "{i}"\nof two lines', "label": "abc"[i % 3]} for i in range(40)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows in the format that the suffix says."""
    if ".jsonl" in path.suffixes:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    elif path.suffix == ".parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(str(path))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def read(task: Any, length: int) -> Examples:
    examples: Examples = task.read(length, lambda _: None)
    return examples


def text_of(example: Example) -> str:
    return ByteTokenizer().as_bytes(np.asarray(example.features["input_ids"]).tolist()).decode()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert [row for _, row in read_rows([path])] == ROWS
    examples = read(tasks()["classify"](files=(path,), held_out=0.25), 12)
    assert examples.classes == ("a", "b", "c")
    assert 0 < len(examples.held_out) < 20
    assert len(examples.train) + len(examples.held_out) == 40
    first = examples.train[0]
    assert text_of(first) in [row["text"][:11] for row in ROWS]
    assert np.asarray(first.features["input_ids"])[0] == END
    assert first.features["labels"] == examples.classes.index(first.truth)
    assert examples.fingerprint == read(tasks()["classify"](files=(path,), held_out=0.25), 12).fingerprint
    assert examples.fingerprint != read(tasks()["classify"](files=(path,), held_out=0.25), 11).fingerprint


def test_what_is_held_out_does_not_depend_on_the_order(tmp_path: Path) -> None:
    found = []
    for rows in (ROWS, ROWS[::-1]):
        path = write(tmp_path / "a.jsonl", rows)
        held = read(tasks()["classify"](files=(path,), held_out=0.3), 99).held_out
        found.append(sorted(map(text_of, held)))
    assert found[0] == found[1]
    numbers = write(tmp_path / "n.jsonl", [{"text": "x", "label": i} for i in (10, 9, 2)])
    settings = tasks()["classify"](files=(numbers,), held_out_files=(numbers,))
    assert read(settings, 9).classes == ("2", "9", "10")


def test_tags_stand_at_the_first_token_of_each_word(tmp_path: Path) -> None:
    rows = [{"tokens": ["Zoë", "sits"], "tags": ["B-P", "O"]}, {"tokens": ["in", "Rome"], "tags": ["O", "B-L"]}]
    path = write(tmp_path / "a.jsonl", rows)
    settings = tasks()["tag"](files=(path,), held_out_files=(path,), field="tokens", label_field="tags")
    examples = read(settings, 99)
    assert examples.classes == ("B-L", "B-P", "O")
    assert text_of(examples.train[0]) == "Zoë sits"
    labels = np.asarray(examples.train[0].features["labels"])
    assert [(int(i), int(labels[i])) for i in np.flatnonzero(labels != -100)] == [(1, 1), (5, 2)]
    short = read(settings, 4).train[0]
    assert short.truth == ["B-P"]
    plain = write(tmp_path / "b.csv", [{"text": "Zoë sits", "label": "B-P O"}])
    again = read(tasks()["tag"](files=(plain,), held_out_files=(plain,)), 99)
    assert np.array_equal(np.asarray(again.train[0].features["input_ids"]), examples.train[0].features["input_ids"])


def test_answers_have_positions(tmp_path: Path) -> None:
    context = "The Thames flows through London."
    squad = {"context": context, "question": "Where?", "answers": {"text": ["London"], "answer_start": [25]}}
    flat = {"context": context, "question": "Where?", "answer": "London"}
    found = []
    for number, row in enumerate((squad, flat)):
        path = write(tmp_path / f"{number}.jsonl", [row])
        settings = tasks()["qa"](files=(path,), held_out_files=(path,))
        found.append(read(settings, 99).train[0])
    for example in found:
        ids = np.asarray(example.features["input_ids"])
        start, end = example.features["start_positions"], example.features["end_positions"]
        assert isinstance(start, int)
        assert isinstance(end, int)
        assert bytes((ids[start : end + 1] - FIRST_BYTE).tolist()) == b"London"
        assert bytes((example.truth.context - FIRST_BYTE).tolist()).decode() == context
    assert read(settings, 30).train[0].features["start_positions"] == -100


def test_pairs_of_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\n\nfour is too long\n")
    (tmp_path / "b").write_bytes(gzip.compress(b"eins\nzwei\ndrei\nvier\n"))
    (tmp_path / "b").rename(tmp_path / "b.gz")
    sides = {"source": (str(tmp_path / "a"),), "target": (str(tmp_path / "b.gz"),)}
    held = {f"held_out_{name}": value for name, value in sides.items()}
    examples = read(tasks()["translate"](**sides, **held), 8)
    assert [example.truth for example in examples.train] == ["eins", "zwei"]
    assert np.asarray(examples.train[0].features["labels"])[-1] == END
    joint = read(tasks()["translate"](**sides, **held, tokenizer="bpe:300"), 99)
    assert joint.tokenizer.vocabulary <= 300
    assert len(joint.train) == 3
    (tmp_path / "a").write_text("one\n")
    with pytest.raises(ValueError, match=r"has 1 lines and .* 4; each source has its target"):
        read(tasks()["translate"](**sides), 8)


def examples_of(sizes: list[int]) -> list[Example]:
    return [Example({"input_ids": np.full(n, i + 3), "labels": i}, i, n) for i, n in enumerate(sizes)]


@pytest.mark.parametrize(("batch_size", "batch_tokens"), [(4, 0), (1, 60), (1, 10)])
def test_batches_take_every_example_once_a_pass(batch_size: int, batch_tokens: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 30, 101).tolist()
    examples = examples_of(sizes)
    batches = TrainingBatches(examples, 300, batch_size, batch_tokens, seed=3)
    assert len(batches) == 300
    seen: list[int] = []
    for batch in batches:
        lengths = [example.size for example in batch]
        if batch_tokens:
            assert max(lengths) * len(batch) <= batch_tokens or len(batch) == 1
        else:
            assert len(batch) <= batch_size
        seen += [example.truth for example in batch]
    for start in range(0, len(seen) - 100, 101):
        assert sorted(seen[start : start + 101]) == list(range(101))
    assert seen[:101] != seen[101:202]
    again = TrainingBatches(examples, 300, batch_size, batch_tokens, seed=3)
    for i in (250, 3, 299, 0):  # in any order
        assert [example.truth for example in again[i]] == [example.truth for example in batches[i]]
    other = TrainingBatches(examples, 300, batch_size, batch_tokens, seed=4)
    assert [e.truth for e in other[0]] != [e.truth for e in batches[0]]


def test_a_batch_is_padded_and_masked() -> None:
    batch = ExampleCollate(pad=0)([examples_of([2, 4])])
    assert batch["input_ids"].tolist() == [[3, 3, 0, 0], [4, 4, 4, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [0, 1]
    assert "attention_mask" not in ExampleCollate(pad=0)(examples_of([3, 3]))


def test_masks_depend_on_the_window_alone() -> None:
    stream = join_documents([Document("a", bytes(range(32, 127)) * 40)], ByteTokenizer())
    windows = HeldOutWindows(stream, 500)
    masked = MaskedWindows(windows, ByteTokenizer(), 0.15, seed=1)
    found = [masked[i] for i in range(len(masked))]
    for i, window in enumerate(found):
        again = masked[i]
        assert all(torch.equal(window[name], again[name]) for name in window)
        plain = windows[i]["input_ids"]
        chosen = window["labels"] != -100
        assert torch.equal(window["labels"][chosen], plain[chosen])
        assert torch.equal(window["input_ids"][~chosen], plain[~chosen])
    chosen = torch.cat([window["labels"] != -100 for window in found])
    hidden = torch.cat([window["input_ids"] == ByteTokenizer.mask for window in found])
    assert 0.13 < chosen.float().mean() < 0.17
    assert 0.75 < hidden.sum() / chosen.sum() < 0.85
    other = MaskedWindows(windows, ByteTokenizer(), 0.15, seed=2)[0]
    assert not torch.equal(other["labels"], found[0]["labels"])
    tiny = MaskedWindows([{"input_ids": torch.tensor([5])}], ByteTokenizer(), 0.01, seed=0)  # type: ignore[arg-type]
    assert tiny[0]["labels"].tolist() == [5]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "text", "a.txt has no rows; give .jsonl, .json"),
        ("a.csv", "text,label\nx\n", "line 2: it has not 2 columns"),
        ("a.csv", "text,label\n", "the files hold no rows"),
        ("a.csv", "body,label\nx,1\n", "line 2: no field 'text'; it has 'body', 'label': choose one with --field"),
        ("a.jsonl", '{"text": "x"}\n', "line 1: no field 'label'; it has 'text': choose one with --label-field"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', "field 'text' is 3, not a text"),
        ("a.jsonl", '{"text": "x", "label": [1]}\n', "not the name or number of a class"),
        ("a.jsonl", '{"text": "x", "label": 1}\n', "have 1 classes; at least 2 are needed"),
        ("a.jsonl", "[1]\n", "line 1: a list, not an object"),
        ("a.parquet", "nothing of the kind", "cannot be read"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    settings = tasks()["classify"](files=(str(tmp_path / name),), held_out=0.0)
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        read(settings, 99)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": ("a",)}, "source is for task='translate'"),
        ({"task": "translate", "source": ("a",)}, "source is given alone"),
        ({"task": "translate", "files": ("a",)}, "task='translate' reads --source and --target"),
        ({"task": "mlm", "mask": 0.0}, "mask=0 leaves nothing to predict"),
        ({"task": "guess"}, "task='guess'"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        data_of(given, tasks())


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("tag", {"text": "two words", "label": "O"}, "2 words and 1 tags"),
        ("tag", {"text": 3, "label": "O"}, "field 'text' is int, not a list of words"),
        ("qa", {"context": "a b", "question": "?", "answer": "c"}, "the answer 'c' does not stand in the context"),
        ("qa", {"context": "a b", "question": "?", "answers": {"text": []}}, "at least one answer must be texts"),
        ("qa", {"context": "a b", "question": "?", "answer": "b", "answer_start": 1}, "does not stand in the context"),
    ],
)
def test_rows_of_another_task(tmp_path: Path, task: Any, row: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(ValueError, match=f"line 1: .*{said}"):
        read(tasks()[task](files=(path,)), 99)


def test_tokens_of_a_context_say_nothing_of_the_answer(tmp_path: Path) -> None:
    context = "Well, the Thames flows through London-on-Thames and the Themse too."
    found = []
    for answer in ("London", "flows", "don-on"):
        path = write(tmp_path / "a.jsonl", [{"context": context, "question": "Where?", "answer": answer}])
        settings = tasks()["qa"](files=(path,), held_out_files=(path,), tokenizer="bpe:280")
        examples = read(settings, 99)
        example = examples.train[0]
        found.append(np.asarray(example.features["input_ids"]).tolist())
        start, end = example.features["start_positions"], example.features["end_positions"]
        assert isinstance(start, int)
        assert isinstance(end, int)
        covered = examples.tokenizer.as_bytes(found[-1][start : end + 1]).decode()
        assert answer in covered
        assert len(covered) <= len(" London-on")
        assert examples.tokenizer.as_bytes(example.truth.context.tolist()).decode() == context
    assert found[0] == found[1] == found[2]


def test_words_of_no_token_and_classes_of_one_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": ["", "a"], "label": ["O", "B"]}, {"text": ["b"], "label": ["O"]}])
    settings = tasks()["tag"](files=(path,), held_out_files=(path,))
    example = read(settings, 9).train[0]
    labels = np.asarray(example.features["labels"])
    assert len(labels) == len(np.asarray(example.features["input_ids"]))
    assert [i for i in labels if i != -100] == [1, 0]
    rows = [{"text": f"text {i}", "label": str(i)} for i in range(30)]  # each class has one row
    path = write(tmp_path / "b.jsonl", rows)
    examples = read(tasks()["classify"](files=(path,), held_out=0.3), 99)
    assert len(examples.classes) == 30
    assert examples.held_out


def test_long_fields_and_stray_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"text": "x" * 200_000, "label": "a"}])
    assert [len(row["text"]) for _, row in read_rows([path])] == [200_000]
    (tmp_path / "b.tsv").write_text('text\tlabel\n"a" b\t1\nc\t2\n')
    with pytest.raises(ValueError, match="expected after"):
        list(read_rows([tmp_path / "b.tsv"]))
