"""Every task is learned, measured, resumed and gone on from."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reformer.data.examples import Examples
from reformer.inference.evaluate import evaluate_masked
from reformer.models import ReformerForConditionalGeneration
from reformer.tasks import tasks
from reformer.tasks.mlm import MaskedLanguageModelling
from reformer.training.checkpoint import load_checkpoint, load_model
from reformer.training.job import make_job, with_tokens
from reformer.training.run import Interrupted, build_model, find_checkpoint
from reformer.training.trainer import ReformerTrainer
from tests.training.conftest import TEXT, corpus, settings, stop_behind, train, training

NAMES = ["Ann", "Bob", "Cid", "Dot"]


def rows(task: str, count: int = 60) -> list[dict[str, Any]]:
    """Rows that a small model learns in a minute."""
    source = random.Random(0)
    found: list[dict[str, Any]] = []
    for _ in range(count):
        words = [source.choice(["runs", "sits", "far"]) for _ in range(source.randint(3, 8))]
        place, name = source.randrange(len(words)), source.choice(NAMES)
        words[place] = name
        text = " ".join(words)
        if task == "classify":
            found.append({"text": text, "label": name})
        elif task == "tag":
            found.append({"text": text, "label": " ".join("B-P" if word == name else "O" for word in words)})
        else:
            found.append({"context": text, "question": "Who?", "answer": name})
    return found


def data_of(task: str, folder: Path) -> Any:
    if task == "translate":
        lines = [" ".join(random.Random(i).choices("abcdef", k=5)) for i in range(60)]
        (folder / "source.txt").write_text("\n".join(lines) + "\n")
        (folder / "target.txt").write_text("\n".join(line.upper() for line in lines) + "\n")
        files = {"source": (str(folder / "source.txt"),), "target": (str(folder / "target.txt"),)}
        return tasks()["translate"](**files, held_out=0.1)
    path = folder / f"{task}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(task)))
    return tasks()[task](files=(str(path),), held_out=0.15)


def examples_of(data: Any) -> Examples:
    examples: Examples = data.read(64, lambda _: None)
    return examples


@pytest.mark.parametrize(
    ("task", "steps", "score"),
    [
        ("classify", 60, "accuracy"),
        ("tag", 60, "F1 of spans"),
        pytest.param("qa", 150, "exact match", marks=pytest.mark.slow),
    ],
)
def test_a_task_is_learned_and_measured(tmp_path: Path, task: str, steps: int, score: str) -> None:
    data = data_of(task, tmp_path)
    examples = examples_of(data)
    said: list[str] = []
    run = training(steps=steps, batch_size=16, warmup_steps=5, learning_rate=5e-3, log_steps=20, eval_steps=steps)
    train(examples, settings(), run, tmp_path / "run", task=data, say=said.append)
    model = load_model(tmp_path / "run")
    assert not model.config.causal
    result = data.measure(model, examples.tokenizer, examples.held_out)
    assert result.scores[score] > 0.9, result.scores
    assert len(result.answers) == len(examples.held_out)
    again = data.evaluate(model, examples.tokenizer, 64, batch_size=7)
    assert again.scores[score] > 0.9
    assert len(again.answers) == 60
    with pytest.raises(ValueError, match="give a language model"):
        load_checkpoint(tmp_path / "run")
    if task != "qa":
        assert model.config.class_names == examples.classes


@pytest.mark.slow
def test_translation_is_learned_and_measured(tmp_path: Path) -> None:
    data = data_of("translate", tmp_path)
    examples = examples_of(data)
    run = training(steps=100, batch_tokens=400, warmup_steps=20, learning_rate=4e-3, log_steps=50)
    train(examples, settings(position_embedding="sinusoidal"), run, tmp_path / "run", task=data, say=lambda _: None)
    model = load_model(tmp_path / "run")
    result = data.measure(model, examples.tokenizer, examples.held_out, beams=2)
    assert result.scores["chrF"] > 35, result.answers
    assert result.notes["beam search"] == "2 beams"


def test_held_out_examples_are_evaluated_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as training takes at a time; the loss is that of one by one."""
    data = data_of("translate", tmp_path)
    examples = examples_of(data)
    found, sizes = [], []
    forward = ReformerForConditionalGeneration.forward

    def counted(self: Any, input_ids: torch.Tensor, **inputs: Any) -> Any:
        sizes.append(len(input_ids))
        return forward(self, input_ids, **inputs)

    monkeypatch.setattr(ReformerForConditionalGeneration, "forward", counted)
    for changes in ({"batch_size": 1}, {"batch_size": 1, "batch_tokens": 400}):
        run = training(eval_steps=1, **changes)
        work = make_job(examples, data, run)
        model = build_model(with_tokens(settings(), examples.tokenizer), 0, work.model_class)
        found.append(ReformerTrainer(model, work, run, str(tmp_path / "run")).evaluate()["eval_loss"])
    assert sizes == [1] * len(examples.held_out) + [6, len(examples.held_out) - 6]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.slow
def test_masked_tokens_are_learned(tmp_path: Path) -> None:
    data = MaskedLanguageModelling(mask=0.2)
    run = training(steps=150, batch_size=8, warmup_steps=5, learning_rate=5e-3, eval_steps=150, log_steps=50)
    train(corpus(held_out=TEXT), settings(), run, tmp_path / "run", task=data, say=lambda _: None)
    score = evaluate_masked(load_model(tmp_path / "run"), TEXT, 64, 0.2)
    assert score.accuracy > 0.4  # always a space: 0.2
    assert score.loss == evaluate_masked(load_model(tmp_path / "run"), TEXT, 64, 0.2).loss


@pytest.mark.parametrize("task", ["tag", *(pytest.param(x, marks=pytest.mark.slow) for x in ("translate", "mlm"))])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    data = MaskedLanguageModelling() if task == "mlm" else data_of(task, tmp_path)
    text = corpus() if task == "mlm" else examples_of(data)
    small, run = settings(hidden_dropout=0.1), training(save_steps=2, batch_size=4)

    def go(out: str, data: Any = data, **options: Any) -> Any:
        return train(text, small, run, tmp_path / out, task=data, say=lambda _: None, **options)

    whole = go("whole")
    with monkeypatch.context() as patch:
        stop_behind(3, patch)
        with pytest.raises(Interrupted):
            go("parts")
    checkpoint = find_checkpoint(tmp_path / "parts", "auto")
    with pytest.raises(ValueError, match=r"held_out=0\.5"):
        go("parts", replace(data, held_out=0.5), resume=checkpoint)
    resumed = go("parts", resume=checkpoint)
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_head_goes_on_from_a_masked_model(tmp_path: Path) -> None:
    train(corpus(), settings(), training(), tmp_path / "mlm", task=MaskedLanguageModelling(), say=lambda _: None)
    before = load_model(tmp_path / "mlm")
    data = data_of("classify", tmp_path)
    run = training(steps=1, learning_rate=1e-9, warmup_steps=0, init=str(tmp_path / "mlm"))
    after = train(examples_of(data), before.config.settings, run, tmp_path / "head", task=data, say=lambda _: None)
    assert after.config.class_names == tuple(sorted(NAMES))
    for (name, a), b in zip(before.model.named_parameters(), after.model.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-6, name
    pairs = data_of("translate", tmp_path)
    with pytest.raises(ValueError, match="they have no layers in common"):
        train(examples_of(pairs), before.config.settings, run, tmp_path / "pairs", task=pairs, say=lambda _: None)


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        ("lm", {"batch_tokens": 100}, "batch_tokens is for examples"),
        ("tag", {"length_schedule": ("32:2",)}, "length_schedule is for windows"),
        ("tag", {"lora": "r=4", "init": "x"}, "lora together with task='tag' is not supported"),
    ],
)
def test_settings_that_do_not_fit_the_task(tmp_path: Path, task: str, changes: dict[str, Any], said: str) -> None:
    data = tasks()["lm"]() if task == "lm" else data_of(task, tmp_path)
    text = corpus() if task == "lm" else examples_of(data)
    with pytest.raises(ValueError, match=said):
        train(text, settings(), training(**changes), tmp_path / "run", task=data, say=lambda _: None)
