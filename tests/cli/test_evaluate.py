"""`reformer evaluate` as a person calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import reformer


def test_evaluate(run: Path) -> None:
    text = reformer("evaluate", "model", "text.txt", cwd=run)
    assert text.returncode == 0, text.stderr
    assert "bits per byte" in text.stdout
    assert "windows of 64 tokens" in text.stdout
    assert "bytes          4,200 in 1 documents" in text.stdout
    found = reformer("evaluate", "model", "text.txt", "--json", "--length", "32", cwd=run)
    result = json.loads(found.stdout)
    assert result["bytes"] == 4200
    assert result["length"] == 32
    scores = {"loss", "bits_per_byte", "perplexity", "accuracy"}
    assert set(result) == {*scores, "model", "bytes", "tokens", "length", "stride", "files"}


@pytest.mark.slow
def test_evaluate_side_by_side_per_document_and_position(run: Path) -> None:
    (run / "other.txt").write_text("nothing like that")
    arguments = ("evaluate", "model", "text.txt", "other.txt", "--against", "model", "--per-document", "--per-position")
    text = reformer(*arguments, "--stride", "16", "--plot", "positions.png", cwd=run)
    assert text.returncode == 0, text.stderr
    lines = text.stdout.splitlines()
    assert lines[0].split() == ["model", "model", "model"]
    row = next(line for line in lines if line.startswith("other.txt"))
    assert len(row.split()) == 4
    assert any(line.startswith("32 to 63") for line in lines)
    assert max(map(len, lines)) <= 80
    assert (run / "positions.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(reformer(*arguments, "--json", cwd=run).stdout)
    assert len(found) == 2
    assert [document["name"] for document in found[0]["documents"]] == ["text.txt", "other.txt"]
    assert sum(position["tokens"] for position in found[0]["positions"]) == found[0]["tokens"] == 4217
    wrong = reformer("evaluate", "model", "text.txt", "--plot", "positions.xyz", cwd=run)
    assert wrong.returncode == 2
    assert ".xyz is no kind of picture" in wrong.stderr


@pytest.mark.slow
def test_evaluate_in_one_context(run: Path) -> None:
    text = reformer("evaluate", "model", "text.txt", "--stream", "--piece", "1000", cwd=run)
    assert text.returncode == 0, text.stderr
    assert "one each; cache of" in text.stdout
    streamed = json.loads(reformer("evaluate", "model", "text.txt", "--stream", "--json", cwd=run).stdout)
    whole = json.loads(reformer("evaluate", "model", "text.txt", "--length", "4201", "--json", cwd=run).stdout)
    assert streamed["bytes"] == whole["bytes"] == 4200
    assert abs(streamed["bits_per_byte"] - whole["bits_per_byte"]) < 1e-3
    refused = reformer("evaluate", "model", "text.txt", "--stream", "--length", "8", cwd=run)
    assert refused.returncode == 2
    assert "leave --length" in refused.stderr


def test_evaluate_behind_other_text(run: Path) -> None:
    (run / "front.txt").write_text("a text that comes before, and comes again")
    (run / "other.txt").write_text("comes before")
    behind = ("--behind", "front.txt", "text.txt", "--json", "--per-document")
    arguments = ("evaluate", "model", "other.txt", "text.txt")
    found = reformer(*arguments, *behind, "--save-cache", "front.cache", "--piece", "100", cwd=run)
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["behind"] == 2 + 41 + 4200
    again = json.loads(reformer(*arguments, "--load-cache", "front.cache", *behind[3:], cwd=run).stdout)
    assert abs(again["bits_per_byte"] - result["bits_per_byte"]) < 1e-4
    alone = json.loads(reformer("evaluate", "model", "other.txt", *behind, cwd=run).stdout)  # each file stands alone
    assert abs(alone["bits_per_byte"] - result["documents"][0]["bits_per_byte"]) < 1e-4
    text = reformer(*arguments, "--load-cache", "front.cache", cwd=run).stdout
    assert "one each behind 4,243 tokens; cache of" in text
    made = reformer(
        "generate", "model", "--prompt-file", "front.txt", "--save-cache", "g.cache", "--max-new-tokens", "0", cwd=run
    )
    assert made.returncode == 0, made.stderr
    found = [
        json.loads(reformer("evaluate", "model", "other.txt", *front, "--json", cwd=run).stdout)
        for front in (("--load-cache", "g.cache"), ("--behind", "front.txt"))
    ]
    assert [one["behind"] for one in found] == [42, 42]
    assert abs(found[0]["bits_per_byte"] - found[1]["bits_per_byte"]) < 1e-4
    for wrong, says in (
        (("--behind", "front.txt", "--length", "8"), "leave --length"),
        (("--behind", "front.txt", "--load-cache", "front.cache"), "give one of them"),
        (("--save-cache", "x"), "--save-cache writes what --behind reads"),
        (("--load-cache", "front.cache", "--against", "model"), "a cache belongs to one model"),
        (("--behind", "front.txt", "--save-cache", "no/x"), "its folder does not exist"),
        (("--behind", "nowhere.txt"), "nowhere.txt"),
    ):
        refused = reformer(*arguments, *wrong, cwd=run)
        assert refused.returncode == 2, wrong
        assert says in refused.stderr, refused.stderr


@pytest.mark.slow
def test_several_processes_share_a_file(run: Path) -> None:
    (run / "short.txt").write_text("of two")
    files = ("model", "text.txt", "short.txt", "--json", "--per-document", "--per-position")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    shared = subprocess.run(
        [*torchrun, "reformer", "evaluate", *files, "--sequence-parallel"],
        capture_output=True,
        text=True,
        cwd=run,
        check=False,
        timeout=240,
    )
    assert shared.returncode == 0, shared.stderr
    found, alone = (
        json.loads(out) for out in (shared.stdout, reformer("evaluate", *files, "--stream", cwd=run).stdout)
    )
    assert found.pop("processes") == 2
    del alone["cache_bytes"]
    assert found.pop("loss") == pytest.approx(alone.pop("loss"), abs=1e-5)
    for one, other in zip(found["positions"], alone["positions"], strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    assert [one["bytes"] for one in found["documents"]] == [4200, 6]
    refused = reformer("evaluate", "model", "text.txt", "--sequence-parallel", cwd=run)
    assert refused.returncode == 2
    assert "torchrun --nproc-per-node 2 -m reformer evaluate" in refused.stderr
    for flags in (("--stream",), ("--length", "32")):
        refused = reformer("evaluate", "model", "text.txt", "--sequence-parallel", *flags, cwd=run)
        assert refused.returncode == 2
        assert "leave" in refused.stderr
