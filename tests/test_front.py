"""`reformer.train` does what the command does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import reformer
from reformer.cli.main import main

SMALL: dict[str, Any] = {"length": 64, "steps": 4, "hidden_size": 32, "num_hidden_layers": 2, "window": 8}


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("to be or not to be, that is the question. " * 100)
    return tmp_path


def test_it_is_the_command(text: Path) -> None:
    said: list[str] = []
    model = reformer.train("text.txt", out="mine", preset="demo", say=said.append, **SMALL)
    assert isinstance(model, reformer.ReformerForCausalLM)
    assert any("saved to mine after 4 steps" in line for line in said)
    flags = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["train", "text.txt", "--out", "theirs", "--preset", "demo", *flags]) == 0
    theirs = reformer.ReformerForCausalLM.from_pretrained("theirs").state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in model.state_dict().items())
    assert Path("mine/run.toml").read_text() == Path("theirs/run.toml").read_text()
    assert Path("mine/report.html").exists()

    again = reformer.train(out=Path("again"), config="mine/run.toml", overwrite=True, say=said.append)
    assert all(torch.equal(x, theirs[name]) for name, x in again.state_dict().items())
    on = reformer.train("text.txt", out="mine", resume="auto", say=said.append)
    assert all(torch.equal(x, theirs[name]) for name, x in on.state_dict().items())
    tuned = reformer.train("text.txt", out="tuned", init="mine", steps=1, length=64, say=said.append)
    assert tuned.config.window == 8


def test_other_tasks(text: Path) -> None:
    rows = [{"text": f"a {word} book {i}", "label": word} for i in range(20) for word in ("good", "bad")]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = reformer.train("rows.jsonl", out="classes", task="classify", say=lambda _: None, **SMALL)
    assert isinstance(model, reformer.ReformerForSequenceClassification)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hiden_size": 3}, "hiden_size is no setting of a training; did you mean 'hidden_size'"),
        ({"steps": 0}, "steps=0 must be an integer"),
        ({"resume": "auto", "overwrite": True}, "give one of them"),
        ({"preset": "nothing"}, "nothing"),
        ({"task": "sing"}, "task='sing'"),
        ({"window": 3, "rule": "chunk"}, "window"),
    ],
)
def test_what_is_refused(text: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(reformer.InputError, match=said):
        reformer.train("text.txt", out="mine", **options)
    assert not Path("mine").exists()


def test_a_folder_that_holds_a_run(text: Path) -> None:
    reformer.train("text.txt", out="mine", say=lambda _: None, **SMALL)
    with pytest.raises(reformer.InputError, match="overwrite"):
        reformer.train("text.txt", out="mine", say=lambda _: None, **SMALL)
    with pytest.raises(reformer.InputError, match="missing"):
        reformer.train("missing", out="other", say=lambda _: None, **SMALL)
