"""Tasks as a person trains and measures them."""

import json
from pathlib import Path

import pytest

from tests.cli.command import TINY, reformer


def test_classify(tmp_path: Path) -> None:
    rows = [{"body": f"{animal} number {i}", "kind": animal} for i in range(30) for animal in ("cat", "dog")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = ("--field", "body", "--label-field", "kind")
    done = reformer(
        "train", "rows.jsonl", "--task", "classify", *fields, "--out", "model", *TINY.split(), "--held-out", "0.2",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "held out: accuracy" in done.stderr
    text = reformer("evaluate", "model", "rows.jsonl", "--answers", "answers.jsonl", cwd=tmp_path)
    assert text.returncode == 0, text.stderr
    assert "F1 (mean of classes)" in text.stdout
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 60
    assert set(answers) <= {"cat", "dog"}
    found = json.loads(reformer("evaluate", "model", "rows.jsonl", "--json", cwd=tmp_path).stdout)
    right = sum(a == row["kind"] for a, row in zip(answers, rows, strict=True))
    assert found["accuracy"] == right / 60
    for arguments, said in (
        (("evaluate", "model"), "is measured on files with rows"),
        (("evaluate", "model", "rows.jsonl", "--stream"), "are for language models"),
        (("generate", "model", "--prompt", "x"), "give a language model"),
        (("train", "--task", "classify", "--out", "new"), "needs files with rows"),
        (("train", "rows.jsonl", "--task", "classify", "--dry-run"), "dry-run plans lm and mlm"),
    ):
        wrong = reformer(*arguments, cwd=tmp_path)
        assert wrong.returncode == 2
        assert said in wrong.stderr
        assert wrong.stderr.count("\n") == 1


@pytest.mark.slow
def test_translate(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"a house number {i}\n" for i in range(40)))
    (tmp_path / "b.txt").write_text("".join(f"ein Haus Nummer {i}\n" for i in range(40)))
    pairs = ("--source", "a.txt", "--target", "b.txt")
    done = reformer(
        "train", "--task", "translate", *pairs, "--tokenizer", "bpe:300", "--batch-tokens", "200", "--out", "model",
        *TINY.split(), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = reformer("evaluate", "model", *pairs, "--beams", "2", cwd=tmp_path)
    assert text.returncode == 0, text.stderr
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in text.stdout
    found = reformer("generate", "model", "--prompt-file", "a.txt", "--beams", "2", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("\n") == 40
    wrong = reformer("generate", "model", "--prompt", "a house", "--top-k", "3", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "top-k is for language models" in wrong.stderr
    again = reformer("train", "--resume", "auto", "--out", "model", cwd=tmp_path)
    assert again.returncode == 0, again.stderr  # what it reads stands in the run file


def test_masked_tokens(run: Path) -> None:
    done = reformer("train", "text.txt", "--task", "mlm", "--out", "masked", *TINY.split(), cwd=run)
    assert done.returncode == 0, done.stderr
    text = reformer("evaluate", "masked", "text.txt", cwd=run)
    assert text.returncode == 0, text.stderr
    assert "masked tokens" in text.stdout
    assert "perplexity" in text.stdout
    wrong = reformer("evaluate", "masked", "text.txt", "--answers", "a.jsonl", cwd=run)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--answers is for tasks on rows" in wrong.stderr
