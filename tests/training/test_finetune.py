"""Going on from a model: adapters, positions beyond its length, what it may change."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reformer.inference.evaluate import evaluate
from reformer.settings import ModelSettings
from reformer.settings.lora import LoraSettings
from reformer.training.checkpoint import checkpoints, load_checkpoint
from reformer.training.finetune import adapt, add_lora
from reformer.training.run import Interrupted, build_model, find_checkpoint
from tests.training.conftest import TEXT, corpus, settings, train, training
from tests.training.test_checkpoints import stop_behind

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


@pytest.mark.parametrize("reversible", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_lora_trains_few_weights_and_is_merged(tmp_path: Path, reversible: bool) -> None:
    model = build_model(settings(reversible=reversible), 0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    loss = evaluate(model, TEXT, 64).loss
    options = training(steps=20, lora="r=4,alpha=8", learning_rate=1e-2, save_steps=10)
    out = tmp_path / "run"
    tuned = train(corpus(), model.config.settings, options, out, model=model, say=lambda _: None)
    assert evaluate(tuned, TEXT, 64).loss < loss - 0.5
    after = load_checkpoint(out).state_dict()
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {name for name in before if name.startswith("model.layers") and after[name].dim() == 2}
    assert changed == {name for name in matrices if "convolution" not in name}
    assert (checkpoints(out)[-1] / "adapter_model.safetensors").stat().st_size < 60_000


@pytest.mark.slow
def test_a_tuned_run_is_repeated_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = train(corpus(), settings(), training(steps=2), tmp_path / "base", say=lambda _: None)
    options = training(save_steps=2, lora="r=2", init=str(tmp_path / "base"))
    whole = train(corpus(), settings(), options, tmp_path / "whole", say=lambda _: None)
    assert torch.equal(whole.lm_head.weight, base.lm_head.weight)
    with monkeypatch.context() as patch:
        stop_behind(3, patch)
        with pytest.raises(Interrupted):
            train(corpus(), settings(), options, tmp_path / "parts", say=lambda _: None)
    found = find_checkpoint(tmp_path / "parts", "auto")
    resumed = train(corpus(), settings(), options, tmp_path / "parts", resume=found, say=lambda _: None)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert not torch.equal(
        whole.model.layers.blocks[0].f.attention.query.weight, base.model.layers.blocks[0].f.attention.query.weight
    )


def test_lora_gradients_equal_plain_autograd() -> None:
    x = torch.randint(3, 259, (2, 50))
    gradients = []
    for reversible in (True, False):
        model = build_model(settings(reversible=reversible, hidden_dropout=0.1), 0).double()
        torch.manual_seed(1)
        adapted = add_lora(model, LoraSettings(r=2, dropout=0.1)).double().train()
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        torch.manual_seed(2)
        adapted(input_ids=x, labels=x).loss.backward()
        gradients.append([weight.grad for weight in adapted.parameters() if weight.requires_grad])
    assert len(gradients[0]) == 2 * (2 * (3 + 2) + 1)  # of a local and an LSH layer: projections, out, feed-forward
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(*gradients, strict=True))


POSITIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"position_embedding": "learned", "max_position_embeddings": 64}, {"max_position_embeddings": 200}),
    (
        {"position_embedding": "axial", "axial_shape": (8, 8), "axial_dims": (8, 24)},
        {"axial_shape": (30, 8)},
    ),
    ({"position_embedding": "rotary"}, {"max_position_embeddings": 1_000_000}),
]


@pytest.mark.parametrize(("trained", "wanted"), POSITIONS, ids=str)
def test_positions_beyond_the_trained_ones(tmp_path: Path, trained: dict[str, Any], wanted: dict[str, Any]) -> None:
    model = build_model(settings(**trained), 0).eval()
    longer = adapt(model, settings(**trained | wanted)).eval()
    x = torch.randint(3, 259, (1, 64))
    assert torch.equal(longer(x).logits, model(x).logits)
    options = training(length=190, batch_size=1, steps=2)
    tuned = train(corpus(), longer.config.settings, options, tmp_path / "run", model=longer, say=lambda _: None)
    assert tuned.eval()(torch.randint(3, 259, (1, 190))).logits.isfinite().all()


def test_what_a_trained_model_cannot_change() -> None:
    model = build_model(settings(position_embedding="learned", max_position_embeddings=64), 0)
    same = {"position_embedding": "learned", "max_position_embeddings": 64}
    for changes, message in (
        ({**same, "hidden_size": 64}, r"keeps what it is; leave out hidden_size=64 \(it has 32\)$"),
        ({**same, "max_position_embeddings": 32}, "fewer would forget"),
    ):
        with pytest.raises(ValueError, match=message):
            adapt(model, settings(**changes))
    axial: dict[str, Any] = {"position_embedding": "axial", "axial_shape": (8, 8), "axial_dims": (8, 24)}
    with pytest.raises(ValueError, match="only its first number can grow"):
        adapt(build_model(settings(**axial), 0), settings(**{**axial, "axial_shape": (8, 16)}))
    dropped = adapt(model, settings(**same, hidden_dropout=0.5))
    assert dropped.config.hidden_dropout == 0.5
    assert adapt(model, model.config.settings) is model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r=0", "lora r=0 must be"),
        ("rank=4", "has 'rank'"),
        ("r=four", "r='four' is no number"),
        ("r=4,alpha=-1", "alpha=-1"),
        ("r=4,dropout=1", "dropout"),
    ],
)
def test_lora_settings(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraSettings.parse(text)
    assert LoraSettings.parse("r=4,alpha=3") == LoraSettings(r=4, alpha=3.0)
    with pytest.raises(ValueError, match="name the model that has them"):
        train(corpus(), ModelSettings(), training(lora="r=4"), Path("never"))
