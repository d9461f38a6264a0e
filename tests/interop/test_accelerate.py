"""Live Reformers of transformers, made faster: the same outputs and gradients, and what was wrong mended."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from reformer.interop.transformers import accelerate
from tests.interop.models import random_batch, random_config, random_model


def outputs(model: torch.nn.Module, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(**inputs, return_dict=True)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("number", range(20))
def test_the_same_outputs(number: int, padded: bool) -> None:
    config = random_config(number)
    theirs = random_model(config)
    fast = accelerate(copy.deepcopy(theirs))
    assert list(fast.state_dict()) == list(theirs.state_dict())
    for k in range(2):
        tokens, mask = random_batch(10 * number + k, config.vocab_size, config.max_position_embeddings - 24, padded)
        wanted, found = (outputs(model, input_ids=tokens, attention_mask=mask) for model in (theirs, fast))
        real = slice(None) if mask is None else mask.bool()
        torch.testing.assert_close(found[real], wanted[real], rtol=1e-9, atol=1e-9)


def trainable(**fixed: Any) -> Any:
    settings: dict[str, Any] = {
        "attn_layers": ["local", "lsh", "lsh"],
        "axial_pos_embds": True,
        "axial_pos_shape": (4, 12),
        "max_position_embeddings": 48,
        "lsh_attn_chunk_length": 4,
        "local_attn_chunk_length": 8,
        "num_buckets": 4,
        "is_decoder": True,
    }
    return random_model(random_config(3, **{**settings, **fixed})).train()


@pytest.mark.parametrize("cached", [False, True])
def test_the_same_gradients(cached: bool) -> None:
    theirs = trainable(use_cache=cached)
    fast = accelerate(copy.deepcopy(theirs))
    tokens = torch.randint(1, theirs.config.vocab_size, (2, 48))
    for model in (theirs, fast):
        model(input_ids=tokens, labels=tokens).loss.backward()
    for (name, mine), yours in zip(fast.named_parameters(), theirs.parameters(), strict=True):
        if yours.grad is not None:
            torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-6, atol=1e-7, msg=name)


def test_dropout_is_the_same_in_the_backward() -> None:
    """With the state of torch's generator fixed, the loss is a function whose slope the gradient is."""
    dropout = {
        "hidden_dropout_prob": 0.3,
        "lsh_attention_probs_dropout_prob": 0.2,
        "local_attention_probs_dropout_prob": 0.2,
    }
    model = accelerate(trainable(**dropout))
    tokens = torch.randint(1, model.config.vocab_size, (1, 48))

    def loss() -> torch.Tensor:
        torch.manual_seed(7)
        return model(input_ids=tokens).logits.square().mean()

    loss().backward()
    weight = model.reformer.encoder.layers[0].feed_forward.dense.dense.weight
    at = int(weight.grad.abs().argmax())
    step = 1e-6
    with torch.no_grad():
        weight.view(-1)[at] += step
        above = loss()
        weight.view(-1)[at] -= 2 * step
        below = loss()
    assert float((above - below) / (2 * step)) == pytest.approx(float(weight.grad.view(-1)[at]), rel=1e-4)


def test_any_length_trains_and_the_generator_is_left_alone() -> None:
    model = accelerate(trainable())
    tokens = torch.randint(1, model.config.vocab_size, (2, 29))
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    model.eval()
    for cached in (False, True):
        torch.manual_seed(1)
        outputs(model, input_ids=tokens, use_cache=cached)
        assert torch.equal(torch.rand(1), wanted)
    trained = model.train()(input_ids=tokens, labels=tokens)
    assert trained.logits.shape[:2] == (2, 29)
    trained.loss.backward()
    mask = torch.ones(2, 29, dtype=torch.long)
    again = model(input_ids=tokens, attention_mask=mask, position_ids=torch.arange(29).expand(2, -1)).logits
    torch.testing.assert_close(again, trained.logits)


def test_more_neighbours_than_chunks() -> None:
    """There such neighbours lie on no ring: its own way is taken."""
    settings = {"local_num_chunks_before": 3, "lsh_num_chunks_before": 5, "num_hashes": 2, "is_decoder": False}
    theirs = trainable(**settings, use_cache=False).eval()
    tokens = torch.randint(1, theirs.config.vocab_size, (2, 16))
    wanted = outputs(theirs, input_ids=tokens)
    torch.testing.assert_close(outputs(accelerate(theirs), input_ids=tokens), wanted, rtol=1e-9, atol=1e-9)


def test_short_texts_and_positions_of_ones_own() -> None:
    model = accelerate(trainable(axial_pos_embds=False, max_position_embeddings=13, lsh_attn_chunk_length=64))
    tokens = torch.randint(1, model.config.vocab_size, (2, 7))
    model(input_ids=tokens, labels=tokens).loss.backward()  # shorter than any chunk: nothing is padded
    model = accelerate(trainable()).eval()
    tokens, positions = torch.randint(1, model.config.vocab_size, (2, 29)), torch.arange(29).expand(2, -1)
    wanted = outputs(model, input_ids=tokens)
    torch.testing.assert_close(outputs(model, input_ids=tokens, position_ids=positions), wanted)
    with pytest.raises(ValueError, match="position_ids hold -1"):
        outputs(model, input_ids=tokens, position_ids=positions - 1)
    with pytest.raises(ValueError, match="output_attentions=True in training"):
        model.train()(input_ids=tokens, output_attentions=True)


def test_hooks_on_layers_fire() -> None:
    model, seen = accelerate(trainable()).eval(), []
    tokens = torch.randint(1, model.config.vocab_size, (2, 48))
    wanted = outputs(model, input_ids=tokens)
    model.reformer.encoder.layers[1].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(outputs(model, input_ids=tokens), wanted)
    assert seen == [1]


def test_autocast_holds_in_the_backward() -> None:
    model = accelerate(trainable()).float()
    tokens = torch.randint(1, model.config.vocab_size, (2, 48))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_generation_goes_on_as_before() -> None:
    theirs = trainable(use_cache=True).eval()
    fast = accelerate(copy.deepcopy(theirs))
    prompt = torch.randint(1, theirs.config.vocab_size, (1, 20))
    found = [
        model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        for model in (theirs, fast)
    ]
    assert torch.equal(*found)


def test_hidden_states_files_and_a_second_time(tmp_path: Path) -> None:
    theirs = trainable(use_cache=False).eval()
    fast = accelerate(accelerate(copy.deepcopy(theirs)))
    tokens = torch.randint(1, theirs.config.vocab_size, (2, 48))
    with torch.no_grad():
        wanted, found = (model(input_ids=tokens, output_hidden_states=True).hidden_states for model in (theirs, fast))
    assert len(found) == len(wanted)
    for mine, yours in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-9, atol=1e-9)
    base = accelerate(transformers.ReformerModel(theirs.config))
    base.save_pretrained(tmp_path)
    assert type(transformers.AutoModel.from_pretrained(tmp_path)) is transformers.ReformerModel
    with pytest.raises(ValueError, match="has no Reformer of transformers"):
        accelerate(torch.nn.Linear(2, 2))


def test_the_trainer_is_untouched(tmp_path: Path) -> None:
    model = accelerate(trainable(use_cache=True)).float()
    rows = [{"input_ids": torch.arange(48) % 30 + 1, "labels": torch.arange(48) % 30 + 1} for _ in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=6,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
