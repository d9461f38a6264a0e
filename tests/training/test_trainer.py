"""What the Trainer is set up to do."""

import math
from pathlib import Path

import pytest
import torch

from reformer.training.run import build_model
from reformer.training.trainer import ReformerTrainer
from tests.training.conftest import job, settings, training

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


def test_accumulation_counts_tokens_not_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the Trainer: rows of different real lengths, one batch of 4 or four micro-batches of 1."""
    monkeypatch.setattr("reformer.models.model.draw_seed", lambda: 5)
    rows = torch.randint(3, 259, (4, 30))
    labels = rows.masked_fill(torch.arange(30) >= torch.tensor([30, 3, 17, 29])[:, None], -100)
    data = [{"input_ids": x, "labels": y} for x, y in zip(rows, labels, strict=True)]
    found = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        model = build_model(settings(), 0)
        run = training(steps=1, batch_size=batch_size, accumulation=accumulation, warmup_steps=0)
        trainer = ReformerTrainer(model, job(data, batch_size), run, str(tmp_path))
        trainer.train()
        line = trainer.state.log_history[0]
        found.append((line["loss"], float(line["grad_norm"])))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_weight_decay_is_for_matrices(tmp_path: Path) -> None:
    model = build_model(settings(), 0)
    trainer = ReformerTrainer(model, job(), training(), str(tmp_path))
    decayed = set(trainer.get_decay_parameter_names(model))
    matrices = {name for name, weight in model.named_parameters() if weight.dim() == 2}
    assert decayed == matrices - {"model.layers.blocks.1.f.attention.convolution.weight"} != matrices
    groups = trainer.create_optimizer().param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert sum(len(group["params"]) for group in groups if group["weight_decay"]) == len(decayed)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "inverse_sqrt"])
def test_learning_rates(tmp_path: Path, schedule: str) -> None:
    rates: list[float] = []
    model = build_model(settings(), 0)
    run = training(steps=12, warmup_steps=4, schedule=schedule, log_steps=1, optimizer="adafactor")
    trainer = ReformerTrainer(model, job(), run, str(tmp_path))
    trainer.create_optimizer_and_scheduler(12)
    for _ in range(12):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[:5] == pytest.approx([0, 3e-3 / 4, 3e-3 / 2, 3e-3 * 3 / 4, 3e-3])
    expected = {
        "cosine": 3e-3 * (1 + math.cos(math.pi * 7 / 8)) / 2,
        "linear": 3e-3 / 8,
        "inverse_sqrt": 3e-3 * (4 / 11) ** 0.5,
    }
    assert rates[11] == pytest.approx(expected[schedule])
